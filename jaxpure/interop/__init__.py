"""Bridges to other libraries, one file each; imported where they are asked for."""
