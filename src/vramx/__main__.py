"""``python -m vramx``: the command without its script."""

from vramx.cli import main

main(prog_name="vramx")
