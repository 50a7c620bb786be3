"""The pack's version, in one place."""

VERSION = "0.4.0"
