"""Draw docs/autoware_chain.svg: from cameras to a candidate, and what of Autoware stands around. `python docs/make_autoware_chain.py`"""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

TARGET = Path(__file__).resolve().parent / "autoware_chain.svg"
WIDTH, HEIGHT = 1180, 470
OURS, THEIRS, INPUT = "#2f9e5b", "#5a6a85", "#8a8f98"
BOXES = (  # name, lines, left, top, width, height, colour
    ("cameras", ["cameras 1..N", "image_raw, compressed", "camera_info, tf_static"], 8, 20, 214, 74, INPUT),
    (
        "localisation",
        ["localisation, vehicle", "kinematic_state, acceleration", "velocity and steering report"],
        8,
        112,
        214,
        74,
        INPUT,
    ),
    ("perception", ["perception (optional)", "objects, traffic signals"], 8, 204, 214, 56, INPUT),
    ("mission", ["mission planner, map", "LaneletRoute, LaneletMapBin"], 8, 278, 214, 56, THEIRS),
    ("route", ["route_node (optional)", "“turn left in 40 m”"], 290, 278, 190, 56, OURS),
    (
        "driving",
        ["driving_node", "profile → model → answer", "feasible, sure, in time?", "trajectory, or the reason"],
        290,
        90,
        190,
        110,
        OURS,
    ),
    (
        "candidates",
        ["autoware_node", "anchored in the map,", "cut at the newest pose,", "stamped anew at 10 Hz"],
        560,
        90,
        190,
        110,
        OURS,
    ),
    ("concat", ["concatenator", "drops what is", "older than 0.2 s"], 820, 100, 150, 90, THEIRS),
    ("selector", ["validator", "and selector"], 1010, 100, 150, 90, THEIRS),
    ("others", ["other generators"], 820, 20, 150, 46, THEIRS),
    ("control", ["trajectory follower", "and vehicle interface"], 1010, 250, 150, 60, THEIRS),
    ("people", ["for people", "/diagnostics, overlay, factors"], 560, 278, 190, 56, OURS),
)
ARROWS = (  # from (x, y) to (x, y), words
    ((222, 57), (290, 118), ""),
    ((222, 149), (290, 145), ""),
    ((222, 232), (290, 178), ""),
    ((222, 306), (290, 306), ""),
    ((385, 278), (385, 200), "command"),
    ((480, 145), (560, 145), "2 Hz"),
    ((222, 165), (290, 290), ""),
    ((750, 145), (820, 145), "10 Hz"),
    ((895, 66), (895, 100), ""),
    ((970, 145), (1010, 145), ""),
    ((1085, 190), (1085, 250), "the winner"),
    ((655, 200), (655, 278), ""),
)
NOTES = (
    (20, 380, "green: this package. Nothing of it is remapped to a trajectory that something follows, or to a vehicle command."),
    (20, 404, "~/output/trajectories → /planning/generator/owled_ros/candidate_trajectories; when the model gives a reason instead of a trajectory, the last"),
    (20, 424, "one is driven on only until it is too old or the vehicle is too far from it; then nothing, once said with an empty set of candidates."),
)  # fmt: skip


def drawn() -> str:
    """Return the file."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12.5">',
        "<title>From cameras to a candidate trajectory in Autoware</title>",
        '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 L10 5 L0 10 z" fill="#444"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for (x1, y1), (x2, y2), words in ARROWS:
        parts.append(
            f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="#444" stroke-width="1.6" marker-end="url(#tip)"/>'
        )
        if words:
            parts.append(
                f'<text x="{(x1 + x2) / 2 + (6 if x1 == x2 else -4):g}" y="{(y1 + y2) / 2 - (0 if x1 == x2 else 7):g}" '
                f'text-anchor="{"start" if x1 == x2 else "middle"}" fill="#444">{escape(words)}</text>'
            )
    for _, lines, left, top, width, height, colour in BOXES:
        parts.append(f'<rect x="{left}" y="{top}" width="{width}" height="{height}" rx="8" fill="{colour}"/>')
        first = top + height / 2 - 8.5 * (len(lines) - 1) + 4.5
        for number, line in enumerate(lines):
            weight = ' font-weight="bold"' if number == 0 else ""
            parts.append(
                f'<text x="{left + width / 2:g}" y="{first + 17 * number:g}" fill="white" text-anchor="middle"{weight}>'
                f"{escape(line)}</text>"
            )
    parts += [f'<text x="{x}" y="{y}" fill="#333">{escape(words)}</text>' for x, y, words in NOTES]
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    TARGET.write_text(drawn())
