"""The loops of MAML and MAML++: pure functions over pytrees that know neither data nor configuration."""
