"""Bad input: messages that no client sends, through the real queue, and what the protocol page says of each of them.

``properties`` and ``line`` put any bytes on the wire; ``generate`` makes inputs from a seed; ``oracle`` says, from
docs/protocol.md alone and without any code of ours, what may come of them; ``campaign`` sends them, with ordinary
commands in between, and compares.
"""
