"""Moving messages and large bodies between a coordinator and its devices."""
