"""Topics stay short and shallow, and tell who wrote."""

import pytest

from fedthings.errors import SpecError
from fedthings.transport import topics


def test_the_names() -> None:
    assert topics.announce("ft", "fed") == "ft/announce/fed"
    assert topics.to("ft", "pump-1") == "ft/to/pump-1"
    assert topics.to("ft", "operator/x") == topics.answer("ft", "x") == "ft/answer/x"
    assert topics.sent("ft", "pump-1") == "ft/from/pump-1"
    assert topics.ask("ft", "x") == "ft/ask/x"
    assert topics.blob("ft", b"\xab" * 32, 12) == "ft/blob/abababababababab/12"


def test_who_wrote() -> None:
    assert topics.device_of(topics.sent("ft", "pump-1")) == "pump-1"
    assert topics.device_of(topics.sent("site/a", "from")) == "from"
    assert topics.device_of(topics.ask("ft", "x")) == "operator/x"
    assert topics.device_of(topics.to("ft", "pump-1")) == "coordinator"
    assert topics.device_of(topics.announce("ft", "from")) == "coordinator"
    assert topics.device_of(topics.blob("ft", b"\0" * 32, 1)) == "coordinator"


@pytest.mark.parametrize("name", ["", "a/b", "a b", "#", "é", "x" * 65, "$share"])
def test_names_that_cannot_be(name: str) -> None:
    with pytest.raises(SpecError):
        topics.to("ft", name)


def test_the_longest_topic_fits() -> None:
    root = topics.check_root("a" * 15 + "/" + "b" * 16)
    longest = topics.announce(root, "f" * 64)
    assert len(longest) <= 128
    assert topics.blob(root, b"\0" * 32, 10**9).count("/") <= 5


@pytest.mark.parametrize("root", ["", "/", "a/b/c", "#", "a/+", "x" * 33])
def test_roots_that_cannot_be(root: str) -> None:
    with pytest.raises(SpecError, match="root"):
        topics.check_root(root)


def test_a_long_root_is_refused_with_the_topic() -> None:
    with pytest.raises(SpecError, match="128 bytes"):
        topics.to("r" * 70, "d" * 64)
