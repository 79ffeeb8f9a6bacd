"""Faults in the degradation, in which crops a run sees, and in their order."""

from tests.faults.fault import faults

DEGRADATION = "tests/data/test_degradation.py::"
PIPELINE = "tests/data/test_pipeline.py::"

DATA = [
    *faults(
        "cassr_jax/data/pieces.py",
        ("tests/commands/test_cut.py",),
        ("if last - begins[-1] > self.remainder", "if last - begins[-1] >= self.remainder"),
        ("max(side - self.size, 0)", "side - self.size"),
        ("in (*others, first):", "in (first, *others):"),
        ("y{top:05d}_x{left:05d}", "y{left:05d}_x{top:05d}"),
    ),
    *faults(
        "cassr_jax/commands/cut.py",
        ("tests/commands/test_cut.py",),
        ('    check_outside(output, images, "--images")\n', ""),
        (" if not is_cut(key, output, present)", ""),
        ("if before.get(name) != value:", "if before.keys() != now.keys():"),
    ),
    *faults(
        "cassr_jax/data/index.py",
        ("tests/data/test_index.py",),
        ("found.st_size, found.st_mtime_ns, found.st_ctime_ns", "found.st_size, found.st_mtime_ns, 0"),
        ("found.st_size, found.st_mtime_ns, found.st_ctime_ns", "found.st_size, 0, 0"),
        ("(unknown or known.keys() != kept.keys())", "unknown"),
        ("if value is not None and (stamp", "if (stamp"),
        ("*(BadZipFile, NotImplementedError, RuntimeError)", "*(NotImplementedError, RuntimeError)"),
    ),
    *faults(
        "cassr_jax/data/crops.py",
        ("tests/data/test_index.py",),
        ("[numbers[key] for key in keys]", "range(len(keys))"),
    ),
    *faults(
        "cassr_jax/data/workforce.py",
        ("tests/data/test_workforce.py",),
        ("min((cores - 1) // max(threads or 1, 1), MOST_WORKERS)", "(cores - 1) // max(threads or 1, 1)"),
        ("max((cores - 1) // workers, 1)", "(cores - 1) // workers"),
    ),
    *faults(
        "cassr_jax/data/pipeline.py",
        (PIPELINE + "test_what_is_held_out_is_never_trained_on",),
        ("[n for n in part if n not in held], [", "[*part], ["),
        ("math.floor((i + 1) * share) > math.floor(i * share)", "math.floor(i * share) % 2"),
    ),
    *faults(
        "cassr_jax/data/pipeline.py",
        ("tests/data/test_prepared.py",),
        ("    check_alike(sources)\n", ""),
    ),
    *faults(
        "cassr_jax/data/crops.py",
        (PIPELINE + "test_a_picture_too_thin_to_be_enlarged_is_left_out_and_named",),
        ("if (height, width) != image.shape[:2]:", "if False:"),
    ),
    *faults(
        "cassr_jax/data/prepared.py",
        ("tests/data/test_prepared.py",),
        ("found.setdefault(file.parent, first)", "found.setdefault(Path(), first)"),
        ("if (built := find_set(folder)) is not None:", "if False:"),
        ("if (picture := next(pictures, None)) is not None:", "if False:"),
        (
            "except (OSError, RuntimeError) as error:\n        reason = getattr",
            "except OSError as error:\n        reason = getattr",
        ),
    ),
    *faults(
        "cassr_jax/data/degradation.py",
        (DEGRADATION + "test_moments_of_gaussian_noise",),
        ("np.float32(sigma / 255.0)", "np.float32(sigma / 256.0 * 1.1)"),
        ("1 if gray else 3)", "3 if gray else 1)"),
    ),
    *faults(
        "cassr_jax/data/degradation.py",
        (DEGRADATION + "test_a_cameras_target_is_blurred_by_a_drawn_sigma_and_its_small_picture_is_not",),
        (
            "hr = to_uint8(gaussian_blur(clean, uniform(rng, preset.soften)))",
            "hr = to_uint8(gaussian_blur(clean, 0.6))",
        ),
    ),
    *faults(
        "cassr_jax/data/degradation.py",
        (DEGRADATION + "test_the_target_of_a_picture_left_clean_is_softened_as_any_other",),
        ("if preset.soften is not None:", "if preset.soften is not None and not untouched:"),
    ),
    *faults(
        "cassr_jax/data/presets.py",
        (DEGRADATION + "test_a_target_is_not_both_sharpened_and_softened",),
        ("if self.sharpen and self.soften is not None:", "if False:"),
    ),
    *faults(
        "cassr_jax/data/degradation.py",
        (DEGRADATION + "test_moments_of_poisson_noise",),
        ("photons = 2.0 ** np.ceil(np.log2(used))", "photons = 256.0"),
    ),
    *faults(
        "cassr_jax/data/degradation.py",
        (DEGRADATION + "test_gray_poisson_noise_is_that_of_the_luma",),
        ("[[0.2989], [0.587], [0.114]]", "[[0.114], [0.587], [0.2989]]"),
    ),
    *faults(
        "cassr_jax/data/degradation.py",
        (DEGRADATION + "test_compression_halves_the_colours_resolution",),
        ("cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420", "cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444"),
    ),
    *faults(
        "cassr_jax/data/degradation.py",
        (
            DEGRADATION + "test_blur_and_sharpening_equal_basicsr",
            DEGRADATION + "test_sharpening_leaves_a_soft_picture_as_it_is",
        ),
        ("return soft * sharp + (1.0 - soft) * image", "return sharp"),
    ),
    *faults(
        "cassr_jax/data/degradation.py",
        (DEGRADATION + "test_blur_is_the_sum_over_a_reflected_border",),
        ("-1, kernel, borderType=cv2.BORDER_REFLECT_101", "-1, kernel, borderType=cv2.BORDER_REFLECT"),
    ),
    *faults(
        "cassr_jax/data/degradation.py",
        (DEGRADATION + "test_other_seeds_give_other_pictures_and_the_target_is_sharpened_where_the_preset_says_so",),
        ("        hr = to_uint8(clean)\n", ""),
    ),
    *faults(
        "cassr_jax/data/degradation.py",
        (DEGRADATION + "test_the_means_are_those_of_the_published_program",),
        ("out = _resize_randomly(rng, out, second, small)", "out = _resize_randomly(rng, out, first, small)"),
        ("out = _blur_randomly(rng, out, second)", "out = _blur_randomly(rng, clean, second)"),
        ("    if not compress_last:\n", "    if compress_last:\n"),
        ("    if rng.random() < preset.final_sinc_prob:\n        out = blur(out, draw_final_sinc(rng))\n", ""),
        ("out = _resize_randomly(rng, out, first, clean.shape[:2])", "out = _resize_randomly(rng, out, first, small)"),
    ),
    *faults(
        "cassr_jax/data/kernels.py",
        ("tests/data/test_kernels.py",),
        ("(cos * y - sin * x) / sigma_y", "(cos * y + sin * x) / sigma_y"),
        (
            "return rng.uniform(low, 1.0) if rng.random() < 0.5 else rng.uniform(1.0, high)",
            "return rng.uniform(low, high)",
        ),
        ("math.pi / 3 if size < 13 else math.pi / 5", "math.pi / 5 if size < 13 else math.pi / 3"),
    ),
    *faults(
        "cassr_jax/data/pipeline.py",
        (PIPELINE + "test_a_stream_taken_up_from_its_state_goes_on_as_if_uninterrupted",),
        ("own = stream[examples:].batch", "own = stream.batch"),
        ("self._examples += self._whole", "self._examples += 1"),
    ),
    *faults(
        "cassr_jax/data/pipeline.py",
        (PIPELINE + "test_processes_share_the_one_stream",),
        ("[process_index::process_count]", "[process_index:]"),
        ("Batches(open_at, batch_size * process_count)", "Batches(open_at, batch_size)"),
    ),
    *faults(
        "cassr_jax/data/pipeline.py",
        (PIPELINE + "test_every_epoch_visits_every_picture_in_another_order",),
        (".shuffle().repeat(_ENDLESS)", ".shuffle().repeat(_ENDLESS, reseed_each_epoch=False)"),
        (".seed(seed).shuffle()", ".seed(seed)"),
    ),
    *faults(
        "cassr_jax/data/pipeline.py",
        (PIPELINE + "test_a_mixture_has_its_shares_and_visits_each_set_as_a_whole",),
        ("list(weights.values()))", "list(weights.values())[::-1])"),
    ),
    *faults(
        "cassr_jax/data/crops.py",
        ("tests/data/test_crops.py",),
        ("choose_sharp = rng.random() < sharp", "choose_sharp = rng.random() > sharp"),
        ("        return at_least(image, self._size)\n", "        return image\n"),
        ("np.maximum(sums(squares) / size**2 - mean**2, 0.0)", "np.maximum(sums(squares) / size**2 - mean, 0.0)"),
    ),
    *faults(
        "cassr_jax/data/resident.py",
        ("tests/data/test_resident.py",),
        ("corners = step * jax", "corners = jax"),
        ("turn & 4, image.swapaxes(0, 1)", "turn & 2, image.swapaxes(0, 1)"),
    ),
]
