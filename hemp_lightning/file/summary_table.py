"""A summary as lines of text."""

from __future__ import annotations

from hemp_reader.summary import Summary


def table(summary: Summary) -> list[str]:
    """One line a tensor, and one for what belongs to none."""
    measured = any(tensor.relative_error is not None for tensor in summary.tensors)
    head = "tensor shape dtype transform coder levels entropy rate bytes share".split()
    rows: list[tuple[str, ...]] = [(*head, *["error"] * measured)]
    for tensor in summary.tensors:
        quantized = tensor.num_levels > 0
        rows.append(
            (
                "".join(c if c.isprintable() else ascii(c)[1:-1] for c in tensor.name),
                "x".join(map(str, tensor.shape)) or "scalar",
                tensor.dtype,
                tensor.transform if quantized else "",
                tensor.coder,
                str(tensor.num_levels) if quantized else "",
                f"{tensor.entropy_bits_per_weight:.3f}" if quantized else "",
                f"{8 * tensor.bytes / max(tensor.num_entries, 1):.3f}",
                f"{tensor.bytes:,}",
                f"{tensor.bytes / summary.file_bytes:.1%}",
                *[f"{tensor.relative_error or 0:.2%}"] * measured,
            )
        )
    rest = summary.file_bytes - sum(tensor.bytes for tensor in summary.tensors)
    label = "header, directory, checksums"
    rows.append(
        (label, *[""] * 7, f"{rest:,}", f"{rest / summary.file_bytes:.1%}", *[""] * measured)
    )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        left = [cell.ljust(width) for cell, width in zip(row[:5], widths[:5], strict=True)]
        right = [cell.rjust(width) for cell, width in zip(row[5:], widths[5:], strict=True)]
        lines.append("  ".join(left + right))
    return [lines[0], "-" * len(lines[0]), *lines[1:]]


def sizes(summary: Summary) -> list[str]:
    """The three sizes: what the entropy promises, what the file has, what the floats had."""
    quantized = sum(
        tensor.num_entries
        for tensor in summary.tensors
        if tensor.num_levels and not tensor.coder.startswith("alias")
    )
    estimate = quantized * summary.entropy_bits_per_weight / 8
    return [
        f"entropy estimate  {estimate:>13,.0f} bytes  "
        f"{summary.entropy_bits_per_weight:.3f} bits for each of {quantized:,} quantized weights",
        f"file              {summary.file_bytes:>13,} bytes  "
        f"{summary.bits_per_weight:.3f} bits for each of {summary.float_bytes // 4:,} entries",
        f"float model       {summary.float_bytes:>13,} bytes  "
        f"{summary.compression_ratio:.1f} times the file",
    ]
