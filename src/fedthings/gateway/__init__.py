"""Gateways: between a group of devices and the coordinator. They pass on what is said, and sum what is sent."""
