"""Rules on what is installed: caches in layers, order, and wheels for hardware that is not there. Pure."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator

from .facts import Facts, words
from .finding import Edit, Finding, Severity
from .reading import Copy, Document, Step
from .rule import Rule, found, only_installs
from .shell import Install

__all__ = ["RULES"]

E, W, I = Severity.ERROR, Severity.WARNING, Severity.INFO  # noqa: E741
# Variables that stand for an option, and the words of a script that empty the cache in the same layer.
_NO_CACHE = {"pip": ("PIP_NO_CACHE_DIR",), "uv": ("UV_NO_CACHE",)}
_PURGED = re.compile(r"pip[\d.]*\s+cache\s+purge|uv\s+cache\s+clean|rm\s[^\n;&|]*\.cache")
_PIP_INSTALL = re.compile(r"(?<![\w/.-])(?P<uv>uv[ \t]+)?pip[\d.]*[ \t]+(?:install|wheel)(?![\w-])")
_SYNC = re.compile(r"(?<![\w/.-])uv[ \t]+sync(?![\w-])")
_APT_INSTALL = re.compile(r"\bapt(?:-get)?\b[^\n;&|]{0,200}\binstall\b")
_TORCH = re.compile(r"(?P<name>torch|torchvision|torchaudio)(?:\[[^\]]*\])?\s*(?:[=<>!~;@#].*)?", re.IGNORECASE)
_INDEX_LINE = re.compile(r"(?m)^[ \t]*(?:-i\b|-f\b|--index-url|--extra-index-url|--find-links|--no-index)")
_INDEX_VARIABLES = words(
    "PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_FIND_LINKS PIP_NO_INDEX PIP_CONFIG_FILE UV_INDEX UV_INDEX_URL "
    "UV_DEFAULT_INDEX UV_EXTRA_INDEX_URL UV_FIND_LINKS UV_TORCH_BACKEND"
)
_GPU = re.compile(r"cuda|nvidia|nvcr|gpu|rocm|tensorrt|vllm|triton|hpu|xpu|jetson|l4t", re.IGNORECASE)
_PLAIN_BASES = words(
    "python debian ubuntu alpine miniconda3 micromamba miniforge3 mambaforge uv amazonlinux almalinux rockylinux "
    "fedora ubi8 ubi9 ubi-minimal bitnami-python python3 python-slim distroless buildpack-deps"
)


def pip_cache(document: Document, facts: Facts) -> Iterator[Finding]:
    """pip's cache in a layer of the image."""
    for step in document.chain:
        if step.name != "RUN":
            continue
        for made in step.installs:
            if made.tool not in _NO_CACHE or made.uncached or _cached_elsewhere(step, made.tool):
                continue
            edits = [Edit(n, n, (line,)) for n, line in _uncached_lines(step)]
            line = step.line_of(r"\bpip[\d.]*[ \t]+(?:install|wheel)|uv[ \t]+sync")
            message = f"{made.tool} keeps what it downloads in its cache, which becomes part of the layer"
            unsafe = "" if edits else "the command is not plain text on one line"
            fix = "\n".join(text for edit in edits for text in edit.lines)
            fix = fix or f"RUN --mount=type=cache,target=/root/.cache/{made.tool} …"
            yield found("pip-cache", W, document, line, message, fix.strip(), None, edits, unsafe)
            break


def _cached_elsewhere(step: Step, tool: str) -> bool:
    if any(
        "pip" in mount or "uv" in mount or ".cache" in mount for mount in (*step.mounts("cache"), *step.mounts("tmpfs"))
    ):
        return True
    if any(step.variables.get(name, "0").lower() not in ("0", "", "false", "off", "no") for name in _NO_CACHE[tool]):
        return True
    exported = re.search(r"\bexport\s+(?:PIP_NO_CACHE_DIR|UV_NO_CACHE)=", step.script)
    return exported is not None or _PURGED.search(step.script) is not None


def _uncached_lines(step: Step) -> Iterator[tuple[int, str]]:
    """(number, line) of the lines in which an install command gets its option."""
    for number, line in enumerate(step.raw, step.first):
        if line.lstrip().startswith("#") or len(line) > 4096:
            continue

        def option(match: re.Match[str]) -> str:
            rest = re.split(r"&&|\|\||;|\|", match.string[match.end() :], maxsplit=1)[0]
            if "--no-cache" in rest:
                return match[0]
            uv = match.re is _SYNC or match["uv"]
            return match[0] + (" --no-cache" if uv else " --no-cache-dir")

        changed = _SYNC.sub(option, _PIP_INSTALL.sub(option, line))
        quoted = re.search(r"[\"'][^\"']*\b(?:pip[\d.]*[ \t]+install|uv[ \t]+sync)", line)
        if changed != line and not quoted:
            yield number, changed


def apt_cache(document: Document, facts: Facts) -> Iterator[Finding]:
    """apt's package lists in a layer of the image."""
    later_needs: list[Step] = []
    updates = re.compile(r"\bapt(?:-get)?\b[^\n;&|]{0,200}\bupdate\b")
    findings = []
    for step in reversed(document.chain):
        if step.name != "RUN" or not any(made.tool == "apt" for made in step.installs):
            continue
        updated = updates.search(step.script) is not None
        cleaned = re.search(r"rm\s[^\n;&|]*/var/lib/apt|rm\s[^\n;&|]*/var/lib/\{", step.script)
        mounted = any("/var/lib/apt" in mount for mount in step.mounts("cache"))
        if updated and not cleaned and not mounted:
            last = step.raw[-1].rstrip()
            tail = " && rm -rf /var/lib/apt/lists/*"
            unsafe = ""
            if later_needs:
                unsafe = f"line {later_needs[-1].first} installs with the lists that are left here"
            elif step.heredoc or (
                step.instruction.words[:1] and step.instruction.text.partition(" ")[2].startswith("[")
            ):
                unsafe = "the command is no plain shell line"
            elif re.search(r"[#;&|\\`'\"(){}]\s*$|\bdone$|\bfi$|\|\|", last) or "||" in step.script:
                unsafe = "the end of the command is not plain"
            edits = [Edit(step.last, step.last, (last + tail,))]
            fix = "\n".join((*step.raw[:-1], last + tail)).strip() if len(step.raw) <= 30 else last + tail
            if unsafe:
                fix = f"RUN apt-get update && apt-get install -y …{tail}"
            message = "the package lists of apt stay in the layer, some 20 to 50 MB that nothing reads at run time"
            line = step.line_of(_APT_INSTALL.pattern)
            findings.append(found("apt-cache", W, document, line, message, fix, None, edits, unsafe))
        if not updated:
            later_needs.append(step)
    yield from reversed(findings)


def code_first(document: Document, facts: Facts) -> Iterator[Finding]:
    """Packages that are installed above the code."""
    copies = {id(copy.step): copy for copy in document.copies}
    below: list[Copy] = []
    for step in document.chain:
        if copy := copies.get(id(step)):
            if copy.role in ("code", "mixed"):
                below.append(copy)
            continue
        installs = [
            made for made in step.installs if made.tool != "apt" and (made.files or made.packages or made.local)
        ]
        if not below or not installs:
            continue
        needs_code = all(made.local and not made.files for made in installs)
        files = sorted({name for made in installs for name in made.files})
        first = below[0]
        lines, edits, unsafe = _dependencies_first(document, facts, first, step, files)
        message = (
            f"packages are installed above the code (line {first.step.first}): "
            f"each code change installs {'them' if not files else f'all of {files[0]}'} again"
        )
        if needs_code:
            unsafe = "the project itself is installed, which needs its code"
            lines = (
                "# first the files that name the dependencies and their installation, then the code, then the project"
            )
        line = step.line_of(r"\b(?:pip[\d.]*|uv|conda|mamba|poetry)\b")
        yield found("code-before-dependencies", W, document, line, message, lines, None, edits, unsafe)
        return


def _dependencies_first(
    document: Document, facts: Facts, copy: Copy, step: Step, files: list[str]
) -> tuple[str, list[Edit], str]:
    """(the corrected lines, the edits, why they are not provably the same)."""
    put: dict[str, str] = {}
    unsafe = ""
    for name in files:
        path = step.absolute(name)
        source = next((entry.path for where, entry in copy.files if path is not None and where == path), None)
        if source is None or path is None:
            unsafe = f"where {name} comes from is not known here"
            source, path = source or posixpath.basename(name), path or name
        put[source] = path
    # The folder comes with the COPY, as it did before; --chown and --chmod too.
    flags = [(name, value) for name, value in copy.step.instruction.flags if name in ("chown", "chmod")]
    words = [f"--{name}={value}" for name, value in flags]
    copied = [" ".join(["COPY", *words, source, path]) for source, path in put.items()]
    text = "\n".join([*copied, *(line.strip() for line in step.raw), copy.step.raw[0].strip()])
    edits = [
        Edit(copy.step.first, copy.step.first - 1, (*copied, *step.raw)),
        Edit(step.first, step.last, ()),
    ]
    return text, edits, unsafe or _unsafe_first(document, facts, copy, step, put)


def _unsafe_first(document: Document, facts: Facts, copy: Copy, step: Step, put: dict[str, str]) -> str:
    if copy.step.stage != step.stage:
        return "the lines are in different stages"
    if not only_installs(step):
        return "the command does more than install packages by name"
    if step.mounts("bind") or (step.instruction.flag("mount") is not None and not step.mounts("cache")):
        return "the command has mounts"
    if not copy.step.plain or copy.step.name != "COPY":
        return "the line that copies the code has quotes, wildcards or continuations"
    if any(re.search(r"[^\w@%+=:,./-]", path) for pair in put.items() for path in pair):
        return "a requirements file has characters in its name that COPY takes for a pattern"
    for source in put:
        text = facts.requirements.get(source)
        if text is None:
            return f"{source} could not be read"
        if re.search(
            r"(?m)^\s*(?:-[rce]\b|--requirement|--constraint|--editable|--find-links|-f\b|\.|/|file:|[^#\n]*@\s*file:)|\.whl",
            text,
        ):
            return f"{source} names other files"
    at = {id(other): index for index, other in enumerate(document.chain)}
    for other in document.chain[at[id(copy.step)] + 1 : at[id(step)]]:
        if other.name in ("LABEL", "EXPOSE", "CMD", "ENTRYPOINT", "STOPSIGNAL", "HEALTHCHECK", "COPY"):
            continue
        return f"{other.name} in line {other.first} stands between"
    return ""


def cuda_wheels(document: Document, facts: Facts) -> Iterator[Finding]:
    """torch with CUDA in an image that has none."""
    if not _plain_base(document):
        return
    for step in document.chain:
        if step.name != "RUN" or _INDEX_VARIABLES & set(step.variables):
            continue
        if any(
            name.startswith(("NVIDIA_", "CUDA_")) and value not in ("", "-1", "none")
            for name, value in step.variables.items()
        ):
            return
        for made in step.installs:
            name = _torch(made, facts) if not made.index and made.tool in ("pip", "uv") else ""
            if not name:
                continue
            where = f" (by {name})" if name in map(posixpath.basename, made.files) else ""
            message = (
                f"torch{where} comes from the public index, whose Linux wheels bring CUDA libraries of several GB, "
                "and the base image has no CUDA: for a CPU target take the CPU wheels; for a GPU say so with "
                "ENV NVIDIA_VISIBLE_DEVICES=all"
            )
            packages = " ".join(made.packages) if made.packages else "torch"
            tool = "uv pip" if made.tool == "uv" else "pip"
            fix = f'ARG TORCH_INDEX\nRUN {tool} install --no-cache-dir --index-url "$TORCH_INDEX" {packages}'
            fix = fix.replace("--no-cache-dir", "--no-cache") if made.tool == "uv" else fix
            yield found("cuda-wheels-on-cpu", W, document, step.line_of(r"\bpip[\d.]*\b|\buv\b"), message, fix)
            return


def _plain_base(document: Document) -> bool:
    """Whether the base is one that surely has no CUDA, and nothing in the file says that a GPU is meant."""
    name = posixpath.basename(document.root.split("@")[0]).split(":")[0]
    if name not in _PLAIN_BASES or _GPU.search(document.root):
        return False
    if document.root_step is not None and "arm64" in (document.root_step.instruction.flag("platform") or ""):
        return False
    if _GPU.search(posixpath.basename(document.file)) or any(_GPU.search(stage.name) for stage in document.stages):
        return False
    return not any(
        _GPU.search(step.instruction.text[:4096])
        for step in document.chain
        if step.name in ("CMD", "ENTRYPOINT", "LABEL")
    )


def _torch(made: Install, facts: Facts) -> str:
    """What asks for torch with nothing that says CPU: a requirement, or a requirements file; "" where nothing does."""
    for package in made.packages:
        if _TORCH.fullmatch(package):
            return "" if "+cpu" in package or "@" in package else package
    for file in made.files:
        matching = [path for path in facts.requirements if posixpath.basename(path) == posixpath.basename(file)]
        text = facts.requirements[matching[0]] if len(matching) == 1 else ""
        if _INDEX_LINE.search(text) or re.search(
            r"(?mi)^\s*(?:nvidia-|cupy|flash-attn|triton|vllm|xformers|bitsandbytes)", text
        ):
            continue
        for line in text.splitlines():
            if _TORCH.fullmatch(line.strip()[:500]) and "+" not in line and "@" not in line:
                return posixpath.basename(file)
    return ""


RULES = (
    Rule("pip-cache", W, "pip or uv leaves its cache in a layer", pip_cache),
    Rule("apt-cache", W, "apt leaves its package lists in a layer", apt_cache),
    Rule("code-before-dependencies", W, "Packages are installed above the code", code_first),
    Rule("cuda-wheels-on-cpu", W, "CUDA wheels in an image without CUDA", cuda_wheels),
)
