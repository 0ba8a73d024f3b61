"""`fedthings tls`: certificates for the broker of one machine, and for those who link to it."""

from __future__ import annotations

from pathlib import Path

import click

from fedthings.commands import as_json, example, show_json


@click.command()
@click.argument("out", metavar="RUN", type=click.Path())
@click.option("--host", "hosts", multiple=True, metavar="NAME", help="By which name devices call this machine.")
@click.option("--client", "clients", multiple=True, metavar="NAME", help="Mutual TLS: a certificate for this device.")
@as_json
@example("fedthings tls runs/house --host hub.local", "fedthings tls runs/house --client kitchen --client hall")
def command(out: str, hosts: tuple[str, ...], clients: tuple[str, ...], as_json: bool) -> None:
    """Make what the broker of the run directory RUN needs for TLS: an authority, and its certificate.

    `fedthings serve --out RUN` speaks TLS from then on, and tokens made afterwards hold the authority's
    certificate. For a mosquitto of your own there is tls/mosquitto.conf. With --client the broker asks
    everyone for a certificate.
    """
    from fedthings.server import certificates

    made = certificates.make(Path(out), hosts, clients)
    made.append(certificates.configuration(Path(out)))
    if as_json:
        show_json({"files": [str(file) for file in made]})
        return
    for file in made:
        click.echo(str(file))
    click.echo(f"fedthings serve speaks TLS now with --out {out}; devices need {made[0]}, which new tokens hold")
