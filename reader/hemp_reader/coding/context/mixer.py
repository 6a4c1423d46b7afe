"""How the context coder predicts a decision, and how it learns from it.

A decision stands at a node: 0 for "is it the centre", 1 for the sign, from 2 on for magnitudes. It
is predicted by `NUM_INPUTS` counters, one for each context; their probabilities go through
`stretch`, ln(p / (1 - p)), a mixer adds them with learned weights, `squash` turns the sum back into
a probability, and one more table corrects it (the logistic mixing of PAQ and lpaq, M. Mahoney 2005
to 2007).

Only integers decide: 64-bit, in tables 32- and 16-bit; `>>` rounds towards minus infinity.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hemp_reader.coding.context.model_tables import (
    FREQUENCY_WEIGHT_START,
    FRESH,
    PACE,
    SQUASH,
    STRETCH,
    STRETCH_MAX,
    WEIGHT_START,
    inherit,
    learn,
)
from hemp_reader.coding.context.neighbours import (
    LINE_INPUTS,
    NUM_INPUTS,
    num_contexts,
)
from hemp_reader.coding.context.sizes import LINE_NODES, NUM_CORRECTIONS
from hemp_reader.numba_tools import embedded, jit


class Mixer(NamedTuple):
    """What was learned, and the decision that is being made.

    Attributes:
        counters: Probability and count of each input, context and node, uint32; 0 is a new one.
        starts: Where the counters of each input begin, `(NUM_INPUTS,)`.
        weights: Of each node and input, of 65,536.
        uses: Decisions that each node has learned from.
        corrections: Of each node, probabilities of 22 bits, `(nodes, NUM_CORRECTIONS)`.
        bases: Where the counters of the present contexts begin, `(NUM_INPUTS,)`.
        slots: Counters of the decision that is being made; `found` are they, `inputs` stretched.
    """

    counters: np.ndarray
    starts: np.ndarray
    weights: np.ndarray
    uses: np.ndarray
    corrections: np.ndarray
    bases: np.ndarray
    slots: np.ndarray
    found: np.ndarray
    inputs: np.ndarray


@jit
def start_mixer(nodes, geometry):  # type: ignore[no-untyped-def]
    """A mixer that has seen nothing, for differences that lie so."""
    starts = np.zeros(NUM_INPUTS, np.int64)
    size = 0
    for i in range(NUM_INPUTS):
        starts[i] = size
        size += num_contexts(i, geometry) * (LINE_NODES if i >= LINE_INPUTS else nodes)
    weights = np.zeros((nodes, NUM_INPUTS), np.int64)
    for i in range(nodes):
        if geometry.frequencies:
            weights[i] = FREQUENCY_WEIGHT_START[min(i, 2)]
        else:
            weights[i] = WEIGHT_START[min(i, 2)]
    corrections = np.zeros((nodes, NUM_CORRECTIONS), np.int64)
    for i in range(nodes):
        for j in range(NUM_CORRECTIONS):
            corrections[i, j] = np.int64(SQUASH[(j - 16) * 128 + STRETCH_MAX]) << 6
    return Mixer(
        np.zeros(size, np.uint32),
        starts,
        weights,
        np.zeros(nodes, np.int64),
        corrections,
        np.zeros(NUM_INPUTS, np.int64),
        np.zeros(NUM_INPUTS, np.uint64),
        np.zeros(NUM_INPUTS, np.uint32),
        np.zeros(NUM_INPUTS, np.int64),
    )


@embedded
def _correct(mixer, node, dot):  # type: ignore[no-untyped-def]
    """From the sum of the weighted inputs: p of a 1, `squash`, and the place among corrections."""
    mix = min(max(dot >> 16, -STRETCH_MAX), STRETCH_MAX)
    squashed = np.int64(SQUASH[mix + STRETCH_MAX])
    place = min(max(mix, -2047), 2047) + 2048
    step, part = place >> 7, place & 127
    corrected = (
        mixer.corrections[node, step] * (128 - part) + mixer.corrections[node, step + 1] * part
    ) >> 13
    one = min(max((3 * squashed + corrected) >> 2, 1), 65535)
    return one, squashed, step, part


@embedded
def predict(mixer, node, inherits):  # type: ignore[no-untyped-def]
    """Predict the decision at a node; new counters begin.

    Args:
        mixer: The mixer.
        node: The node.
        inherits: The first counter, if new, begins as that of the same side's smaller magnitude.

    Returns:
        p of a 1, from 1 to 65,535; and what `learn_decision` takes.
    """
    slot = mixer.bases[0] + node
    counter = mixer.counters[slot]
    if counter == 0:
        counter = FRESH
        if inherits:
            counter = (mixer.counters[slot - 2] & np.uint32(0xFFFFFC00)) | np.uint32(1)
        mixer.counters[slot] = counter
    parent = np.int64(counter >> np.uint32(10))
    dot = np.int64(0)
    for i in range(NUM_INPUTS):
        own = node if i < LINE_INPUTS else min(node, LINE_NODES - 1)
        place = np.uint64(mixer.bases[i] + own)
        counter = mixer.counters[place]
        if counter == 0:
            counter = inherit(parent)
            mixer.counters[place] = counter
        mixer.slots[i] = place
        mixer.found[i] = counter
        mixer.inputs[i] = STRETCH[counter >> np.uint32(16)]
        dot += mixer.inputs[i] * mixer.weights[node, i]
    return _correct(mixer, node, dot)


@embedded
def learn_decision(mixer, node, bit, squashed, step, part):  # type: ignore[no-untyped-def]
    """Learn the decision that `predict` predicted."""
    if part >= 64:
        step += 1
    mixer.corrections[node, step] += ((bit << 22) - mixer.corrections[node, step]) >> 6
    error = ((bit << 16) - squashed) * PACE[mixer.uses[node]]
    mixer.uses[node] = min(mixer.uses[node] + 1, len(PACE) - 1)
    for i in range(NUM_INPUTS):
        mixer.weights[node, i] += (mixer.inputs[i] * error + 131072) >> 18
        mixer.counters[mixer.slots[i]] = learn(mixer.found[i], bit)


@embedded
def foresee(mixer, node, inherits):  # type: ignore[no-untyped-def]
    """P of a 1 at a node, as `predict` has it; nothing begins."""
    counter = mixer.counters[mixer.bases[0] + node]
    if counter == 0:
        counter = FRESH
        before = mixer.counters[mixer.bases[0] + node - 2] if inherits else np.uint32(0)
        if before != 0:
            counter = (before & np.uint32(0xFFFFFC00)) | np.uint32(1)
    parent = np.int64(counter >> np.uint32(10))
    dot = np.int64(STRETCH[counter >> np.uint32(16)]) * mixer.weights[node, 0]
    for i in range(1, NUM_INPUTS):
        own = node if i < LINE_INPUTS else min(node, LINE_NODES - 1)
        counter = mixer.counters[mixer.bases[i] + own]
        if counter == 0:
            counter = inherit(parent)
        dot += np.int64(STRETCH[counter >> np.uint32(16)]) * mixer.weights[node, i]
    return _correct(mixer, node, dot)[0]
