"""Figures of cards, from NVIDIA's documents."""

from __future__ import annotations

from dataclasses import dataclass

from vramx.cards.pcie import link_rate

_PASCAL = "NVIDIA GeForce GTX 10 series, specifications"
_TURING = "NVIDIA Turing GPU Architecture, whitepaper, and GeForce specifications"
_AMPERE = "NVIDIA Ampere GA102 GPU Architecture, whitepaper, and GeForce specifications"
_ADA = "NVIDIA Ada GPU Architecture, whitepaper, and GeForce specifications"
_BLACKWELL = "NVIDIA RTX Blackwell GPU Architecture, whitepaper, and GeForce specifications"
_DATASHEET = "NVIDIA's datasheet of this card"
_LAPTOP = "computed from cores and the highest clock in NVIDIA's GeForce laptop specifications"
_COMPUTED = "NVIDIA's datasheet of this card, operations computed from cores and clock"


@dataclass(frozen=True)
class PlannedCard:
    """A card to plan for.

    Attributes
    ----------
    name : str
        NVIDIA's name without the brand: ``"RTX 3060"``.
    memory : int
        Bytes on the card.
    link : float
        Bytes a second that a pinned copy reaches.
    bandwidth : float
        Bytes a second of the card's own memory; 0 where it is not known.
    half, single : float
        Peak dense operations a second: 16 bit on tensor cores with 32-bit accumulation, where there
        are such, and 32 bit; 0 where they are not known.
    source : str
        The document of these figures.
    link_source : str
        Where the link's rate is from.
    """

    name: str
    memory: int
    link: float
    bandwidth: float
    half: float
    single: float
    source: str
    link_source: str = ""


#: Name, GiB, lanes, GB/s of memory, and 10^12 operations a second in 32 bits. What tensor cores do
#: of 16 bits is a multiple of that, which goes with the architecture and the market.
_Rows = tuple[tuple[str, int, int, float, float], ...]

_GTX_10: _Rows = (
    ("GT 1030", 2, 4, 48, 1.1),
    ("GTX 1050", 2, 16, 112, 1.9),
    ("GTX 1050 Ti", 4, 16, 112, 2.1),
    ("GTX 1060 3GB", 3, 16, 192, 3.9),
    ("GTX 1060 6GB", 6, 16, 192, 4.4),
    ("GTX 1070", 8, 16, 256, 6.5),
    ("GTX 1070 Ti", 8, 16, 256, 8.2),
    ("GTX 1080", 8, 16, 320, 8.9),
    ("GTX 1080 Ti", 11, 16, 484, 11.3),
)
_GTX_16: _Rows = (
    ("GTX 1630", 4, 8, 96, 1.8),
    ("GTX 1650", 4, 16, 128, 3.0),
    ("GTX 1650 SUPER", 4, 16, 192, 4.4),
    ("GTX 1660", 6, 16, 192, 5.0),
    ("GTX 1660 SUPER", 6, 16, 336, 5.0),
    ("GTX 1660 Ti", 6, 16, 288, 5.4),
)
_RTX_20: _Rows = (
    ("RTX 2060 6GB", 6, 16, 336, 6.5),
    ("RTX 2060 12GB", 12, 16, 336, 7.2),
    ("RTX 2060 SUPER", 8, 16, 448, 7.2),
    ("RTX 2070", 8, 16, 448, 7.5),
    ("RTX 2070 SUPER", 8, 16, 448, 9.1),
    ("RTX 2080", 8, 16, 448, 10.1),
    ("RTX 2080 SUPER", 8, 16, 496, 11.2),
    ("RTX 2080 Ti", 11, 16, 616, 13.4),
)
_RTX_30: _Rows = (
    ("RTX 3050 6GB", 6, 8, 168, 6.8),
    ("RTX 3050 8GB", 8, 8, 224, 9.1),
    ("RTX 3060", 12, 16, 360, 12.7),
    ("RTX 3060 8GB", 8, 16, 240, 12.7),
    ("RTX 3060 Ti", 8, 16, 448, 16.2),
    ("RTX 3070", 8, 16, 448, 20.3),
    ("RTX 3070 Ti", 8, 16, 608, 21.7),
    ("RTX 3080", 10, 16, 760, 29.8),
    ("RTX 3080 12GB", 12, 16, 912, 30.6),
    ("RTX 3080 Ti", 12, 16, 912, 34.1),
    ("RTX 3090", 24, 16, 936, 35.6),
    ("RTX 3090 Ti", 24, 16, 1008, 40.0),
)
_RTX_30_LAPTOP: _Rows = (
    ("RTX 3050 Laptop", 4, 8, 192, 7.1),
    ("RTX 3050 Ti Laptop", 4, 8, 192, 8.7),
    ("RTX 3060 Laptop", 6, 16, 336, 13.1),
    ("RTX 3070 Laptop", 8, 16, 448, 16.6),
    ("RTX 3070 Ti Laptop", 8, 16, 448, 17.5),
    ("RTX 3080 Laptop 8GB", 8, 16, 448, 21.0),
    ("RTX 3080 Laptop 16GB", 16, 16, 448, 21.0),
    ("RTX 3080 Ti Laptop", 16, 16, 512, 23.6),
)
_RTX_40: _Rows = (
    ("RTX 4060", 8, 8, 272, 15.1),
    ("RTX 4060 Ti 8GB", 8, 8, 288, 22.1),
    ("RTX 4060 Ti 16GB", 16, 8, 288, 22.1),
    ("RTX 4070", 12, 16, 504, 29.1),
    ("RTX 4070 SUPER", 12, 16, 504, 35.5),
    ("RTX 4070 Ti", 12, 16, 504, 40.1),
    ("RTX 4070 Ti SUPER", 16, 16, 672, 44.1),
    ("RTX 4080", 16, 16, 717, 48.7),
    ("RTX 4080 SUPER", 16, 16, 736, 52.2),
    ("RTX 4090", 24, 16, 1008, 82.6),
    ("RTX 4090 D", 24, 16, 1008, 73.5),
)
_RTX_40_LAPTOP: _Rows = (
    ("RTX 4050 Laptop", 6, 8, 192, 12.1),
    ("RTX 4060 Laptop", 8, 8, 256, 14.6),
    ("RTX 4070 Laptop", 8, 8, 256, 20.0),
    ("RTX 4080 Laptop", 12, 16, 432, 33.9),
    ("RTX 4090 Laptop", 16, 16, 576, 39.7),
)
_RTX_50: _Rows = (
    ("RTX 5050", 8, 8, 320, 13.2),
    ("RTX 5060", 8, 8, 448, 19.2),
    ("RTX 5060 Ti 8GB", 8, 8, 448, 23.7),
    ("RTX 5060 Ti 16GB", 16, 8, 448, 23.7),
    ("RTX 5070", 12, 16, 672, 30.9),
    ("RTX 5070 Ti", 16, 16, 896, 43.9),
    ("RTX 5080", 16, 16, 960, 56.3),
    ("RTX 5090", 32, 16, 1792, 104.8),
    ("RTX 5090 D", 32, 16, 1792, 104.8),
)
_RTX_50_LAPTOP: _Rows = (
    ("RTX 5050 Laptop", 8, 8, 384, 13.6),
    ("RTX 5060 Laptop", 8, 8, 384, 16.6),
    ("RTX 5070 Laptop", 8, 8, 384, 21.6),
    ("RTX 5070 Ti Laptop", 12, 16, 672, 26.1),
    ("RTX 5080 Laptop", 16, 16, 896, 35.1),
    ("RTX 5090 Laptop", 24, 16, 896, 45.3),
)
_QUADRO_RTX: _Rows = (
    ("Quadro RTX 4000", 8, 16, 416, 7.1),
    ("Quadro RTX 5000", 16, 16, 448, 11.2),
    ("Quadro RTX 6000", 24, 16, 672, 16.3),
    ("Quadro RTX 8000", 48, 16, 672, 16.3),
    ("TITAN RTX", 24, 16, 672, 16.3),
)
_RTX_A: _Rows = (
    ("RTX A400", 4, 8, 96, 2.7),
    ("RTX A1000", 8, 8, 192, 6.7),
    ("RTX A2000 6GB", 6, 16, 288, 8.0),
    ("RTX A2000 12GB", 12, 16, 288, 8.0),
    ("RTX A4000", 16, 16, 448, 19.2),
    ("RTX A4500", 20, 16, 640, 23.7),
    ("RTX A5000", 24, 16, 768, 27.8),
    ("RTX A5500", 24, 16, 768, 34.1),
    ("RTX A6000", 48, 16, 768, 38.7),
)
_RTX_ADA: _Rows = (
    ("RTX 2000 Ada", 16, 8, 224, 12.0),
    ("RTX 4000 SFF Ada", 20, 16, 280, 19.2),
    ("RTX 4000 Ada", 20, 16, 360, 26.7),
    ("RTX 4500 Ada", 24, 16, 432, 39.6),
    ("RTX 5000 Ada", 32, 16, 576, 65.3),
    ("RTX 5880 Ada", 48, 16, 960, 69.3),
    ("RTX 6000 Ada", 48, 16, 960, 91.1),
)
_RTX_PRO: _Rows = (
    ("RTX PRO 2000", 16, 8, 288, 17.0),
    ("RTX PRO 4000", 24, 16, 672, 46.9),
    ("RTX PRO 4000 SFF", 24, 8, 432, 24.0),
    ("RTX PRO 4500", 32, 16, 896, 54.9),
    ("RTX PRO 5000 48GB", 48, 16, 1344, 73.7),
    ("RTX PRO 5000 72GB", 72, 16, 1344, 66.9),
    ("RTX PRO 6000", 96, 16, 1792, 126.0),
    ("RTX PRO 6000 Max-Q", 96, 16, 1792, 110.0),
    ("RTX PRO 6000 Server", 96, 16, 1597, 120.0),
)
#: Name, GiB, PCI Express, lanes, GB/s, and operations in 16 and 32 bits, of cards for servers.
_SERVERS = (
    ("V100 16GB", 16, 3, 16, 900, 112, 14),
    ("V100 32GB", 32, 3, 16, 900, 112, 14),
    ("T4", 16, 3, 16, 300, 65, 8.1),
    ("A2", 16, 4, 8, 200, 18, 4.5),
    ("A10", 24, 4, 16, 600, 125, 31.2),
    ("A16", 16, 4, 16, 200, 17.9, 4.5),
    ("A30", 24, 4, 16, 933, 165, 10.3),
    ("A40", 48, 4, 16, 696, 149.7, 37.4),
    ("A100 40GB", 40, 4, 16, 1555, 312, 19.5),
    ("A100 80GB", 80, 4, 16, 1935, 312, 19.5),
    ("L4", 24, 4, 16, 300, 121, 30.3),
    ("L40", 48, 4, 16, 864, 181, 90.5),
    ("L40S", 48, 4, 16, 864, 362, 91.6),
    ("H20", 96, 5, 16, 4000, 148, 44),
    ("H100 PCIe", 80, 5, 16, 2000, 756, 51),
    ("H100 SXM", 80, 5, 16, 3350, 989, 67),
    ("H100 NVL", 94, 5, 16, 3938, 835, 60),
    ("H200", 141, 5, 16, 4800, 989, 67),
    ("H200 NVL", 141, 5, 16, 4800, 835, 60),
    ("B100", 192, 5, 16, 8000, 1750, 60),
    ("B200", 180, 5, 16, 8000, 2250, 75),
    ("B300", 270, 6, 16, 8000, 2250, 75),
)


def _card(
    name: str,
    gib: int,
    generation: int,
    lanes: int,
    bandwidth: float,
    half: float,
    single: float,
    source: str = _DATASHEET,
) -> PlannedCard:
    return PlannedCard(
        name=name,
        memory=gib * 2**30,
        link=link_rate(generation, lanes),
        bandwidth=bandwidth * 1e9,
        half=half * 1e12,
        single=single * 1e12,
        source=source,
        link_source=f"estimated from PCI Express {generation} x{lanes}",
    )


#: Of a card sold with several sizes of memory, the name says which, except the most common.
CARDS = {
    card.name: card
    for card in (
        *(
            _card(name, gib, generation, lanes, bandwidth, times * single, single, source)
            for rows, generation, times, source in (
                (_GTX_10, 3, 1, _PASCAL),
                (_GTX_16, 3, 1, _TURING),
                (_RTX_20, 3, 4, _TURING),
                (_RTX_30, 4, 2, _AMPERE),
                (_RTX_30_LAPTOP, 4, 2, _LAPTOP),
                (_RTX_40, 4, 2, _ADA),
                (_RTX_40_LAPTOP, 4, 2, _LAPTOP),
                (_RTX_50, 5, 2, _BLACKWELL),
                (_RTX_50_LAPTOP, 5, 2, _LAPTOP),
                (_QUADRO_RTX, 3, 8, _DATASHEET),
                (_RTX_A, 4, 4, _DATASHEET),
                (_RTX_ADA, 4, 4, _DATASHEET),
                (_RTX_PRO, 5, 4, _COMPUTED),
            )
            for name, gib, lanes, bandwidth, single in rows
        ),
        *(_card(*row) for row in _SERVERS),
    )
}
