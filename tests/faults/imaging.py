"""Faults in how pictures are read, in what becomes of their colours and alpha, and in tiles that are enlarged."""

from tests.faults.fault import faults

TIFF = ("tests/imaging/test_tiff.py",)
ODD_TIFF = ("tests/imaging/test_odd_tiff.py",)
SIDE_CHUNKS = ("tests/imaging/test_side_chunks.py",)
PROFILES = ("tests/imaging/test_profiles.py",)
ALPHA = ("tests/imaging/test_alpha.py",)
COLOR = ("tests/imaging/test_color.py",)
MEMORY = ("tests/imaging/test_memory.py",)

IMAGING = [
    *faults(
        "cassr_jax/imaging/png16.py",
        ("tests/imaging/test_deep.py",),
        ("(to_left <= to_above) & (to_left <= to_corner)", "(to_left <= to_above) & (to_left < to_corner)"),
        ("np.abs(a + b - 2 * c)", "np.abs(a - b)"),
        ("((left.astype(np.uint16) + above) // 2)", "((left + above) // 2)"),
        ("made[(step - 2) % 3, first:last] * (columns > 0)", "made[(step - 1) % 3, first:last] * (columns > 0)"),
        ("stream.decompress(body, min(left, _PIECE))", "stream.decompress(body)"),
    ),
    *faults(
        "cassr_jax/imaging/tiff_writer.py",
        ("tests/imaging/test_deep.py",),
        ("(0, *accumulate(counts[:-1]))", "(0,) * len(counts)"),
        ("    changed[:, 1:] -= rows[:, :-1]\n", ""),
        ('.newbyteorder("<")', '.newbyteorder(">")'),
        ("if channels % 2 == 0 else []", "if False else []"),
    ),
    *faults(
        "cassr_jax/imaging/invented.py",
        ("tests/imaging/test_invented.py",),
        ("np.where(wrong > added, 0, added)", "added"),
        ("resized(given, coarse)", "resized(made, coarse)"),
        ("(_means(lost, coarse), off)", "(off, off)"),
        ("/ FULL, 0, 1)", "/ 255, 0, 1)"),
    ),
    *faults(
        "cassr_jax/imaging/protection.py",
        ("tests/imaging/test_invented.py",),
        ("made + weight * (kept.astype(np.float32) - made)", "kept + weight * (made.astype(np.float32) - kept)"),
        ("if abs(ratio / expected - 1) > _CLOSE:", "if False:"),
    ),
    *faults(
        "cassr_jax/imaging/io.py",
        ("tests/imaging/test_deep.py",),
        (
            "    Image.Transpose.ROTATE_270: lambda array: np.rot90(array, -1),",
            "    Image.Transpose.ROTATE_270: np.rot90,",
        ),
        ("deepened(picture.alpha) if picture.rgb.dtype == DEEP else picture.alpha", "picture.alpha"),
    ),
    *faults(
        "cassr_jax/cascade.py",
        ("tests/test_deep_cascade.py",),
        ("if len(kinds) > 1:", "if False:"),
    ),
    *faults(
        "cassr_jax/commands/jobs.py",
        ("tests/end_to_end/test_sample_files.py",),
        ('data if frame == 0 else data + f"frame {frame + 1}".encode()', "data"),
        ("picture.frames - 1 if args.all_frames else 0", "0"),
    ),
    *faults(
        "cassr_jax/imaging/alpha.py",
        ("tests/imaging/test_alpha.py::test_alpha_never_leaves_the_range_of_its_neighbours",),
        ("return np.clip(enlarged, least, greatest)", "return enlarged"),
    ),
    *faults(
        "cassr_jax/imaging/io.py",
        (
            "tests/imaging/test_io.py::test_a_profile_for_colours_keeps_a_grey_picture_in_colours",
            "tests/imaging/test_io.py::test_what_is_stored_as_grey_is_written_as_grey",
        ),
        ("and icc is None and is_grey(rgb)", "and is_grey(rgb)"),
    ),
    *faults(
        "cassr_jax/restoration.py",
        ("tests/test_cascade.py::test_a_grey_picture_stays_grey",),
        ("return as_grey_as(lq, to_integers(image, lq.dtype))", "return to_integers(image, lq.dtype)"),
    ),
    *faults(
        "cassr_jax/imaging/samples.py",
        TIFF,
        ("return dtype.type(most) - scaled if meaning.white_is_zero else scaled", "return scaled"),
        (" and declared & (declared + 1) == 0", ""),
        ("if bits <= 16 and not (real or signed):", "if bits <= 8 and not (real or signed):"),
        ("if not real and most > whole // 2:", "if not real and most > whole:"),
        ("np.isfinite(most) and least >= 0", "np.isfinite(most)"),
    ),
    *faults(
        "cassr_jax/imaging/depth.py",
        ("tests/imaging/test_depth.py",),
        ("max(data[24:25], default=8)", "8"),
        ("body[10] % 128 + 1", "body[10] % 128"),
        ("for bits in body[5:]", "for bits in body[6:]"),
        ("int(words[3]).bit_length()", "16"),
        ("if bits > kept else ()", "if bits >= kept else ()"),
    ),
    *faults(
        "cassr_jax/files.py",
        ("tests/end_to_end/test_sample_refused.py::test_a_folder_that_cannot_be_written_is_known_before_any_work",),
        ("for path in (folder, *folder.parents) if os.path.lexists(path)", "for path in (folder, Path())"),
        ("if not os.access(path, os.W_OK | os.X_OK):", "if False:"),
    ),
    *faults(
        "cassr_jax/files.py",
        ("tests/imaging/test_inputs.py::test_links_that_lead_nowhere_are_told",),
        ("                broken(path)\n", "                pass\n"),
    ),
    *faults(
        "cassr_jax/imaging/tiff.py",
        TIFF,
        ("transpose(1, 2, 0, 3).reshape(height, width, -1)", "reshape(height, width, -1)"),
        ("& (REDUCED | MASK)", "& MASK"),
        ("reverse=True", "reverse=False"),
        ("kinds[alphas[0]] == ASSOCIATED", "False"),
        ("x.photometric in MOSAICS", "False"),
        ("samples[..., colors + alphas[0], None], replace(meaning, white_is_zero=False)", "samples[..., :1], meaning"),
        ("np.arange(bits - 1, -1, -1)", "np.arange(bits)"),
        ("= _tag(page, ORIENTATION) or 1", "= 1"),
    ),
    *faults(
        "cassr_jax/imaging/tiff.py",
        ODD_TIFF,
        ("if page.imagedepth > 1:", "if page.imagedepth > 4:"),
        ("if not isinstance(size, int):", "if isinstance(size, str):"),
        ("if width * height * samples > 4 * MAX_INPUT_PIXELS:", "if False:"),
        ("if any(kind in COMPLEX for", "if all(kind is None for"),
        (" and decodes and not", " and not"),
        ("and page.photometric != WHITE_IS_ZERO)", ")"),
        (" and not _declares_white(page)\n", "\n"),
        ("255 - np.asarray(image) if falls else np.asarray(image)", "np.asarray(image)"),
        ("    if ASSOCIATED in page.extrasamples:\n", "    if False:\n"),
        ("return scaled // np.uint8(255 // (2 ** _most_bits(page) - 1))", "return scaled"),
        ("or (falls and page.extrasamples):\n", "or page.extrasamples:\n"),
        ("{RGB: 3, CMYK: 4}", "{RGB: 3}"),
        ("page.colormap.T[samples[..., 0]]", "page.colormap.T[samples[..., 0] & 0xFF]"),
        ("except UnidentifiedImageError as error:", "except ZeroDivisionError as error:"),
    ),
    *faults(
        "cassr_jax/imaging/decoding.py",
        ODD_TIFF,
        ("except MemoryError as error:", "except ZeroDivisionError as error:"),
    ),
    *faults(
        "cassr_jax/imaging/side_chunks.py",
        SIDE_CHUNKS,
        ("if chunk.name[:1].isupper() or chunk.name in PIXEL_CHUNKS:", "if True:"),
        ('PIXEL_CHUNKS = (b"tRNS", ', "PIXEL_CHUNKS = ("),
        ("        elif not chunk.sound:\n", "        elif False:\n"),
        ("(codes[0] in PRIMARIES and codes[1]", "(codes[0] in PRIMARIES or codes[1]"),
        ('inside + 4 * (name == b"meta")', "inside"),
        ("size = (at - 8).to_bytes", "size = (end - 8).to_bytes"),
        ("if end > start + 3 and data[start]", "if data[start]"),
    ),
    *faults(
        "cassr_jax/imaging/jpeg.py",
        SIDE_CHUNKS,
        ("first == second and _is_complete", "_is_complete"),
        (" and _is_complete(jpeg, scans)", ""),
        ("while at + 2 <= len(jpeg)", "while at + 4 <= len(jpeg)"),
    ),
    *faults(
        "cassr_jax/imaging/decoding.py",
        SIDE_CHUNKS,
        ("except Image.DecompressionBombError as error:", "except RecursionError as error:"),
    ),
    *faults(
        "cassr_jax/imaging/profiles.py",
        PROFILES,
        ("return table[rgb[..., 0]], None, []", "return rgb, None, []"),
        ("colors == RGB and image.mode", "colors and image.mode"),
    ),
    *faults(
        "cassr_jax/imaging/alpha.py",
        ALPHA,
        ("rgb[..., channel] * alpha.astype(np.float32)", "rgb[..., channel].astype(np.float32)"),
        ("made[..., channel] + (after - before)", "made[..., channel]"),
        ("made[..., channel] + (after - before)", "after"),
        ("around + share[..., None] * (rgb - around)", "rgb"),
        ("_with_nearest(_laid_over_neighbours(rgb, alpha), hidden)", "_laid_over_neighbours(rgb, alpha)"),
        ("np.maximum(ndimage.maximum_filter(strength, side), 1)", "255"),
        ("rgb * strength[..., None], -1", "rgb.astype(np.float32), -1"),
    ),
    *faults(
        "cassr_jax/imaging/color.py",
        COLOR,
        ("for x in (low, wanted)], axis=-3)", "for x in (wanted, low)], axis=-3)"),
        ("slice(i, i + 1) for i in range", "slice(None) for i in range"),
    ),
    *faults(
        "cassr_jax/imaging/memory.py",
        MEMORY,
        ("needed > present", "needed > 20 * present"),
        ("min(found, default=None)", "max(found, default=None)"),
        ("3 * 4 * max(height, LEAST_SIDE)", "3 * max(height, LEAST_SIDE)"),
        ("3 * 4 * max(height, LEAST_SIDE)", "3 * 4 * height"),
    ),
]
