"""`gvq`: the seed paper's quantiser, 16 codes, no context (Farooq & Iqbal 2026, arXiv:2602.02035).

K = 16, commitment 0.25, running averages with decay 0.99; a message of 64 floats there, of the run's width here. The
paper charges log2 K = 4 bits a message; here a marginal prior is counted as for every other codec, which can only help.
"""

from commlib.codecs.vq import VQCodec


class GVQCodec(VQCodec):
    """`vq` with 16 codes whose prior knows nothing of the link."""

    name = "gvq"

    def __init__(self, width: int) -> None:
        super().__init__(width, codebook_size=16, context="none")
