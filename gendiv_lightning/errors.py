"""Every error that a user can cause, by kind. Each kind has a stable code, and a section of `docs/errors.md`.

All of them are `ValueError`s, so `except ValueError` catches any. Kinds that Python has a class for derive from that
class too: `MissingFileError` is also a `FileNotFoundError`.

The docstring of a class is its section: a summary, the cause, what to do, and a message as an example. After changing
one, run `python docs/errors.py > docs/errors.md`.

Codes are grouped by hundreds: 1 settings, 2 weights and services, 3 files and prompts, 4 images, 5 sampling, 6 metrics,
7 run folders. A code that is no longer raised is not given to another kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from typing import ClassVar

LINK = "More: "  # begins the last line of an error on the command line
_PAGE = "docs/errors.md"


class GendivError(ValueError):
    """An error that the user can correct. The message says what is wrong and what to do.

    Attributes:
        code: of the kind of error, such as "GD101".
    """

    code: ClassVar[str] = ""

    @classmethod
    def link(cls) -> str:
        """Where the kind is explained: a section of the documentation's site, or of its page in the repository."""
        urls = [line.split(", ", 1) for line in metadata.metadata("gendiv_lightning").get_all("Project-URL") or ()]
        site = next((url for label, url in urls if label.lower() == "documentation"), None)
        page = f"{site.rstrip('/')}/errors.html" if site else _PAGE
        return f"{page}#{cls.code.lower()}"


class ConfigValueError(GendivError):
    """A setting has a value that it does not accept.

    Cause: A value in a config, an option of a command or an argument of a class is of another type than expected, or
    outside its range.

    What to do: The message names the setting, the value and what is expected. Correct the value; the page of config
    keys and `gendiv COMMAND --help` list types and defaults.

    Example: limit must be at least 1, got 0. Give a positive integer
    """

    code = "GD101"


class ConfigKeyError(GendivError):
    """A key of a config, or an option of a name, is unknown or missing.

    Cause: The key is misspelt, belongs to another class, or was forgotten.

    What to do: Compare the key with those that the message lists. `gendiv predict --help` lists all keys of a run.

    Example: study.yaml: unknown key 'seed'. Choose from seeds, probes, generators
    """

    code = "GD102"


class OptionConflictError(GendivError):
    """Two settings exclude each other, or one of them requires the other.

    Cause: Each setting is valid, but the combination has no meaning, for instance a dataset's split together with a
    local file.

    What to do: Remove one of the settings that the message names, or add the one that it requires.

    Example: split applies to a dataset, not to a path, got 'train'. Remove it
    """

    code = "GD103"


class UnknownNameError(GendivError):
    """A name does not exist.

    Cause: A generator, metric, feature network, config, distance or number is misspelt, or the package that registers
    it is not installed.

    What to do: Choose one of the names in the message. `gendiv list` shows everything that is registered, and
    `gendiv show RUN` the numbers of a run.

    Example: the package ships no config 'configs/tiny/lama.yaml'. `gendiv configs list` shows all names
    """

    code = "GD104"


class UnsafeInputError(GendivError):
    """An input would execute code, or read files outside its folder.

    Cause: A config names a function, a table of images names a file outside its folder, or a dataset points to a file
    of this machine. gendiv treats configs and datasets as data.

    What to do: If you trust the source, follow the message, for instance with `--allow-outside` for a table that names
    files in other folders. Otherwise correct the input.

    Example: trainer.callbacks must not name a function, got os.system. Write a class with a method instead
    """

    code = "GD105"


class OutputError(GendivError):
    """The output cannot be written to the given path.

    Cause: The file or folder exists and would be overwritten, it is a folder where a file is needed or the
    reverse, or its name has the wrong suffix.

    What to do: Choose another name, or move what is there. gendiv deletes nothing but a run that `--overwrite true`
    names.

    Example: --out must end in .jsonl, got prompts.csv. Rename the file
    """

    code = "GD106"


class PackageError(GendivError):
    """A Python package is missing or cannot be imported.

    Cause: An optional dependency is not installed, or a plug-in is broken.

    What to do: Install what the message names, such as `pip install 'gendiv_lightning[slurm]'`. `gendiv list` shows
    the registered plug-ins and the distribution of each.

    Example: cluster jobs need submitit. Install it with pip install 'gendiv_lightning[slurm]'
    """

    code = "GD107"


class MissingWeightsError(GendivError, FileNotFoundError):
    """Weights are not on this machine and could not be downloaded.

    Cause: The path is wrong, the machine has no network, the Hub repository needs a login, or a download was
    interrupted.

    What to do: The message names the file or repository, and the command that downloads it. On a machine without a
    network copy the files there, and give their folder with the option that the message names.

    Example: gpt_checkpoint: there is no file 'c2i_B_256.pt'.
    """

    code = "GD201"


class WrongWeightsError(GendivError):
    """The weights cannot be used: they are damaged, or they belong to another model.

    Cause: The file is cut off or of another format, or its tensors do not fit the settings of the model. gendiv loads
    a checkpoint completely or not at all.

    What to do: Download the file again if it is damaged. Otherwise choose the checkpoint for these settings, or set
    the settings that the message names.

    Example: model.pt must contain a dictionary of tensors, got a list. Save a module's state_dict()
    """

    code = "GD202"


class NetworkError(GendivError, ConnectionError):
    """A service could not be reached, or refused the request.

    Cause: There is no network, an address or key is missing or wrong, or the service (Weights & Biases, an endpoint
    for paraphrases) is down.

    What to do: Check network, address and credentials, then run the same command again. Finished work is kept.

    Example: nothing was sent to Weights & Biases: not logged in. Check the network, or log
    in with `wandb login`
    """

    code = "GD203"


class MissingFileError(GendivError, FileNotFoundError):
    """A file is missing, or is not a regular file.

    Cause: The path is misspelt or relative to another directory, a link is broken, or the path is a folder, a FIFO or
    a device.

    What to do: Correct the path. Relative paths start from the working directory, which the message names.

    Example: photos is missing. Correct the path, which is relative to /home/me
    """

    code = "GD301"


class FileFormatError(GendivError):
    """A file does not have the expected format.

    Cause: The file is damaged, is not encoded in UTF-8, has no such column, or was renamed.

    What to do: The message names file, line or column, and what is expected. Correct the file, or name the right
    column.

    Example: metadata.csv is empty. Write one row per image
    """

    code = "GD302"


class DatasetError(GendivError):
    """A dataset cannot be loaded, or has no such split.

    Cause: The name is neither a local path nor a dataset on the Hugging Face Hub, the Hub cannot be reached, or the
    split is called something else.

    What to do: Check the name and the network, and choose one of the splits in the message.

    Example: photos has the splits train, test, not val. Choose one with --split
    """

    code = "GD303"


class PromptError(GendivError):
    """A prompt file or a prompt cannot be used.

    Cause: The file has no column with prompts, two prompts share an id, a record is not text, or the generator does not
    accept the text.

    What to do: The message names file, line and column. Correct the record, or name the column with `data.column`.
    `gendiv prompts` makes a clean prompt set from any file.

    Example: a prompt file must end in one of .jsonl, .json, .csv, .tsv, .txt, .parquet, .tar, got prompts.doc.
    Convert or rename it
    """

    code = "GD304"


class TooLittleDataError(GendivError):
    """There are fewer prompts, paraphrases, images or samples than the task needs.

    Cause: Filters removed too much, a prompt has too few paraphrases, or a statistic needs more samples than the run
    has.

    What to do: Ask for fewer, filter less, or add data. The message says how many there are and how many are required.

    Example: prompt a ('a red ball') has 3 paraphrases of length 'short', but 4 are required. Choose fewer or another
    length, or add paraphrases to the prompt set
    """

    code = "GD305"


class ImageError(GendivError):
    """An image cannot be read, or too many of a set cannot.

    Cause: The file is damaged, is not an image, has more than 8 bits per channel, or is larger than the memory limit.

    What to do: Repair, convert or remove the images that the message names. `--max-corrupt` (in configs `max_corrupt`)
    allows a share of unreadable images, which are reported and skipped.

    Example: 3 of 10 images cannot be read, more than a share of 0.1; the last are a.png (it is empty). Repair or remove
    them, or raise --max-corrupt (in configs max_corrupt)
    """

    code = "GD401"


class NoImagesError(GendivError):
    """A source contains no images.

    Cause: The path names another folder, or the images have a suffix or a layout that gendiv does not read.

    What to do: Give one of the layouts that the message lists. The guide to measuring your own images shows each of
    them.

    Example: no image ends in .png. Choose one of .jpg
    """

    code = "GD402"


class GroupingError(GendivError):
    """The images cannot be assigned to their prompts.

    Cause: Captions are missing or ambiguous: no text belongs to an image, several tables describe the same folder, or
    an image has several captions. gendiv never guesses a prompt.

    What to do: Write the prompts into a `metadata.csv`, a text next to each image, or one folder per prompt. The
    message names the first image or table with the problem.

    Example: a.png has an empty prompt. Fill it in, or remove the image
    """

    code = "GD403"


class ImageSizeError(GendivError):
    """Images have a size that the model or the metric does not accept.

    Cause: The images of one prompt differ in size, or a tokenizer or network needs another number of pixels.

    What to do: Resize the images with `--resize` (in configs `image_size`), or choose another metric.

    Example: images of the prompt 'a red ball' differ in size, 64 x 64 and 32 x 32. Resize them with --resize
    """

    code = "GD404"


class ProbeError(GendivError):
    """A probe does not apply to this generator, or two probes contradict each other.

    Cause: The probe changes a setting that the sampler of this family does not have, such as a codebook subset of a
    model without a codebook, or two probes set the same value.

    What to do: Remove one of the probes that the message names. In the gallery, the page of each family lists the
    probes that apply to it.

    Example: Paraphrase and Decompose both select paraphrases. Use only one of them
    """

    code = "GD501"


class DesignError(GendivError):
    """The numbers of samples, paths and paraphrases do not fit together.

    Cause: A balanced design needs the same number of samples in each cell, so `num_samples` must be a multiple of paths
    times paraphrases.

    What to do: Use the number that the message suggests.

    Example: num_paths must be an even number of at least 2, got 3. Try 4
    """

    code = "GD502"


class NonFiniteError(GendivError):
    """A network returned NaN or infinity.

    Cause: Half precision overflowed, or the checkpoint contains such values.

    What to do: Set `model.dtype` to bfloat16 or float32. If the error stays in float32, download the checkpoint again.

    Example: the decoder's pixels: 3 of 6912 values are not finite. In float16 this is usually an overflow: set
    model.dtype to bfloat16 or float32. In float32 the checkpoint itself contains such values
    """

    code = "GD503"


class PipelineError(GendivError):
    """A diffusers pipeline cannot be sampled with keyed noise.

    Cause: The pipeline or its scheduler draws random numbers where gendiv cannot replace them, takes no prompt, or does
    not return one row of latents per image.

    What to do: Choose another pipeline class or scheduler. The page of pipelines lists those that are tested.

    Example: pipeline: StableDiffusionImg2ImgPipeline is not a text-to-image pipeline. Choose one of the same family
    with model.pipeline
    """

    code = "GD504"


class NotApplicable(GendivError):
    """A check of the generator contract does not apply to this kind of generator.

    Cause: The check needs something that the generator does not have, such as tokens or guidance. The message is the
    reason.

    What to do: Nothing. `gendiv check-generator` reports the check as not applicable.

    Example: the generator draws no tokens
    """

    code = "GD505"


class MemoryLimitError(GendivError):
    """A file would take more memory than the limit allows.

    Cause: An image, a table or an archive expands to more than `memory_limit`. A few kilobytes on disk can expand to
    gigabytes.

    What to do: If the file is what you expect, raise the limit with `--memory-limit` (in configs `memory_limit`, in
    GiB).

    Example: a.png takes 2 GiB, more than the memory limit of 1 GiB. Raise it with --memory-limit (in configs
    memory_limit)
    """

    code = "GD506"


class MetricInputError(GendivError):
    """A metric or an analysis needs something that the samples or the run do not have.

    Cause: A distance needs two images per prompt, FID needs a reference file, entropies need tokens, and a
    decomposition needs a run with the `Decompose` design.

    What to do: Leave the metric out, or provide what the message names. The catalogue of metrics lists what each one
    needs.

    Example: metric 'fid' requires a reference of real images. Pass a file made by `gendiv reference`
    """

    code = "GD601"


class ReferenceFileError(GendivError):
    """A reference file of real images cannot be used.

    Cause: The file is damaged, is a part of a reference, has too few images, or was made with other features than the
    metric uses.

    What to do: Make the reference again with `gendiv reference` and the feature network of the metric.

    Example: the parts were made from different images or with different features. Make them again
    """

    code = "GD602"


class DamagedRunError(GendivError):
    """A file of a run folder is missing or damaged.

    Cause: The folder was copied incompletely, a disk failed, or a file was edited. Every file of a run has a checksum.

    What to do: Restore the file from a copy. If there is none, delete the damaged shard and run the same command again:
    the missing prompts are sampled again, with the same results.

    Example: runs/a/metrics.json is damaged: expected a JSON object, got list. Restore the file, or run
    the command again with --overwrite true
    """

    code = "GD701"


class MissingRunError(GendivError):
    """A folder is not a run.

    Cause: The path names another folder, such as the one that contains the run, or codebook counts of `gendiv
    validate`.

    What to do: Give the folder that contains `fingerprint.json`. `gendiv predict` makes runs.

    Example: runs is not a run folder, because it has no fingerprint.json. Give the folder of a run
    """

    code = "GD702"


class RunDiffersError(GendivError):
    """The folder contains a run with other settings.

    Cause: Weights, prompts, settings or package versions that determine the samples have changed since the run began.
    Resuming would mix two experiments.

    What to do: Give another `--run_dir`, restore the settings that the message lists, or delete the run with
    `--overwrite true`.

    Example: runs/a contains samples but no fingerprint.json, so the run cannot be identified. Choose another --run_dir
    """

    code = "GD703"


class RunLockedError(GendivError):
    """Another process is writing to the folder.

    Cause: The same command is running elsewhere, possibly on another machine that shares the disk.

    What to do: Wait for the process that the message names, stop it, or choose another folder.

    Example: runs/a is being written by process 41 on node3. Wait for it, stop it, or choose another --run_dir
    """

    code = "GD704"


class UnfinishedRunError(GendivError):
    """A run is not finished.

    Cause: It was interrupted, or is still running.

    What to do: Run the same `gendiv predict` command again. It resumes, and its results are those of an uninterrupted
    run.

    Example: the run in runs/a is not finished. Run the same `gendiv predict` again to resume it
    """

    code = "GD705"


class NotComparableError(GendivError):
    """Runs cannot be compared.

    Cause: They differ in something that changes their numbers, such as prompts, seeds or feature networks, or they have
    no prompt or metric in common.

    What to do: Compare runs over the same prompts with the same metrics. `gendiv compare --anyway` compares runs that
    differ in settings, and says so in its output.

    Example: these runs have no prompt in common. Give runs over the same prompt set
    """

    code = "GD706"


def kinds() -> list[type[GendivError]]:
    """All kinds of errors, by code."""
    return sorted(GendivError.__subclasses__(), key=lambda kind: kind.code)


def restated(error: BaseException, message: str) -> GendivError:
    """An error of the same kind with another message; a `ConfigValueError` if the error has no kind."""
    return (kind_of(error) or ConfigValueError)(message)


def kind_of(error: BaseException | None) -> type[GendivError] | None:
    """The kind of an error, or of the error that it wraps; None if neither has one."""
    while error is not None and not isinstance(error, GendivError):
        error = error.__cause__ or error.__context__
    return type(error) if error else None


def command_line_text(error: BaseException, message: str) -> str:
    """An error as the command line ends with it: its code and message, then a line with the link to its section."""
    kind = kind_of(error)
    if kind is None:
        return f"gendiv: error: {message}"
    return f"gendiv: error {kind.code}: {message}\n{LINK}gendiv list errors, or {kind.link()}"


def listed(names: Sequence[str], most: int = 8) -> str:
    """Names for a message; of many the first ones and the number of the others."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more if names else "none"
