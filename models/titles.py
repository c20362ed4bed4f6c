"""Readable names out of Complete Journey's abbreviated, upper-case product fields."""

import re
from typing import Final

__all__ = ["readable", "title"]

VAGUE: Final = frozenset(
    [
        "BLENDS",
        "ECONOMY",
        "ECONOMY - MEAT",
        "ENHANCED",
        "GARDEN PLUS",
        "LEAN",
        "MAINSTREAM",
        "PATTIES",
        "PREMIUM",
        "PREMIUM - MEAT",
        "PRIMAL",
        "REGULAR GARDEN",
        "RIBS",
        "SELECT",
        "SMOKED/COOKED",
        "SUPER PREMIUM",
        "TRADITIONAL",
        "LINKS",
        "ROUNDS",
        "LOIN",
        "ROLLS",
        "OTHER",
    ]
)
"""Product types that say nothing without their category."""

WORDS: Final = {
    "BEERALEMALT": "BEER, ALE, MALT",
    "BG": "BAG",
    "BKD": "BAKED",
    "BR": "BREAD",
    "BRKFST": "BREAKFAST",
    "BTL": "BOTTLE",
    "BTR": "BUTTER",
    "CAR": "CARBONATED",
    "CARB": "CARBONATED",
    "CATFD": "CAT FOOD",
    "CHIX": "CHICKEN",
    "CNTRL": "CONTROL",
    "CRBNTD": "CARBONATED",
    "CRMD": "CREAMED",
    "DNRS": "DINNERS",
    "DRNK": "DRINK",
    "DRNKS": "DRINKS",
    "DRNKING": "DRINKING",
    "DRNKNG": "DRINKING",
    "DRSNG": "DRESSING",
    "DSH": "DISH",
    "FD": "FOOD",
    "FLVRD": "FLAVOURED",
    "FRZ": "FROZEN",
    "FRZN": "FROZEN",
    "GDS": "GOODS",
    "INCL": "",
    "IWS": "INDIVIDUALLY WRAPPED",
    "MACH": "MACHINE",
    "MLT-PK": "MULTI-PACK",
    "MNRL": "MINERAL",
    "MX": "MIX",
    "MXS": "MIXES",
    "PKD": "PICKLED",
    "PNT": "PEANUT",
    "PREP": "PREPARED",
    "PWDR": "POWDER",
    "REFRGRATD": "REFRIGERATED",
    "RTS": "READY TO SERVE",
    "SALD": "SALAD",
    "SAUS": "SAUSAGE",
    "SFT": "SOFT",
    "SGL": "SINGLE",
    "SNDWCH": "SANDWICH",
    "SNGL": "SINGLE",
    "SPLY": "SUPPLY",
    "SPRD": "SPREAD",
    "SRV": "SERVE",
    "SS": "SINGLE SERVE",
    "SV": "SERVE",
    "SW": "SWEET",
    "TISS": "TISSUE",
    "TRSH": "TRASH",
    "WHLSM": "WHOLESOME",
    "WT": "WEIGHT",
}


def title(product_type: str, category: str, department: str, size: str, *, private: bool) -> str:
    """``SPECIALTY COOKIES``, ``14 OZ``, own brand -> ``Specialty cookies 14 OZ (Private)``; "" if nothing is known."""
    name = readable(product_type or category or department)
    if product_type in VAGUE and category:
        name = f"{readable(category)}: {name.lower()}"
    # a produce package is the shop's crate (bananas come by 40 lb), not what a household buys
    shown = "" if department == "PRODUCE" or size in name else size
    return f"{name} {shown}".strip() + (" (Private)" if private and name else "")


def readable(name: str) -> str:
    """``SFT DRNK SNGL SRV`` -> ``Soft drink single serve``; the file cuts names at 30 letters."""
    name = re.sub(r"\s*\([^)]*$|\s+-\s+\w$", "", name)
    name = re.sub(r"\bMLT-PK\b|[A-Z]+", lambda match: WORDS.get(match.group(), match.group()), name)
    return re.sub(r"\s+", " ", re.sub(r"\s*:\s*", ": ", name)).strip().capitalize()
