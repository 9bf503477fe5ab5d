"""Whether the weights of one image are the approved ones, by the way that reads the fewest bytes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from ..checkpoint.blueprint import content_digest
from ..errors import LocalResourceError
from ..names import CHECKPOINT_DIGEST, CHECKPOINT_KEY, WEIGHTS, checkpoint_tag
from ..oci import Digest, Image, Manifest
from .compare import compare_files, compare_tensors, united
from .local import Approved, LocalLayer, try_layers, weights_hash
from .reading import Layers
from .result import Mismatch, VerifiedImage, Way
from .scan import Known, Node, Tensors
from .subject import Subject
from .view import View

__all__ = ["Job"]


@dataclass
class Job:
    """One image's verification.

    Attributes:
        check_above: look into the layers over the checkpoint's too.
        key: of the state dict in a pickled checkpoint; "" for the obvious one.
    """

    subject: Subject
    layers: Layers
    check_above: bool
    key: str
    notes: list[str] = field(default_factory=list)

    def run(self, local: Approved | None, wanted: Mapping[str, Digest]) -> VerifiedImage:
        """Against the file *local*, or the digest *wanted* of weights or of anything; else against its own labels."""
        if local is not None:
            return self.against_file(local)
        if "weights" in wanted:
            return self.against_weights(wanted["weights"])
        return self.against_digest(wanted["digest"]) if "digest" in wanted else self.against_labels()

    # ------------------------------------------------------------------------------------------------ what is asked

    def against_labels(self) -> VerifiedImage:
        facts = self.subject.facts
        label = facts.get(WEIGHTS, "")
        by_tensors = bool(label) or not self.subject.ours
        seen = self._seen(self._nodes(tensors=by_tensors, digests=not label))
        mismatches = self.subject.contradictions() + self._kept()
        tensors, why = united(seen.files.items())
        content = self._content(seen)
        if label:
            found = str(weights_hash(tensors)) if tensors else self._unread(seen, why)
            if found != label:
                mismatches.append(Mismatch("label", WEIGHTS, label, found))
        elif said := facts.get(CHECKPOINT_DIGEST, ""):
            if content is None:
                self.notes.append("where its files begin is not known: their digest was not held against the label")
            elif str(content) != said:
                mismatches.append(Mismatch("label", CHECKPOINT_DIGEST, said, str(content)))
        elif not self.subject.ours:
            self.notes.append("the image says nothing of its weights: only its layers were held against their digests")
        return self._result("labels", seen, mismatches, tensors, content)

    def against_weights(self, approved: Digest) -> VerifiedImage:
        label = self.subject.facts.get(WEIGHTS, "")
        if label and label != str(approved):
            return self._result("labels", None, [Mismatch("label", WEIGHTS, str(approved), label)])
        seen = self._seen(self._nodes(tensors=True, digests=False))
        tensors, why = united(seen.files.items())
        found = str(weights_hash(tensors)) if tensors else self._unread(seen, why)
        mismatches = [] if found == str(approved) else [Mismatch("weights", "weights hash", str(approved), found)]
        return self._result("tensors", seen, mismatches, tensors)

    def against_digest(self, approved: Digest) -> VerifiedImage:
        subject = self.subject
        if approved in (subject.image.manifest.digest, subject.found.index):
            return self._result("image", None, [])
        single = (*subject.layers, *subject.diff_ids) if len(subject.own) == 1 else ()
        if approved in single:
            return self._result("layers", self._seen(self.layers.names(subject.own)), [])
        other = self._image(approved)
        if other is not None:
            mismatches = self._other_layers(other)
            seen = None if mismatches else self._seen(self.layers.names(subject.own))
            return self._result("layers", seen, mismatches)
        by_weights = WEIGHTS in subject.facts
        seen = self._seen(self._nodes(tensors=by_weights))
        tensors, _ = united(seen.files.items())
        content = self._content(seen)
        if by_weights and tensors and approved == weights_hash(tensors):
            return self._result("tensors", seen, [], tensors, content)
        weights = [known.digest for known in seen.files.values() if known.format]
        alone = weights[0] if len(weights) == 1 else None
        if approved in (content, alone):
            return self._result("files", seen, [], tensors, content)
        said = weights_hash(tensors) if by_weights and tensors else content or alone
        mismatches = [Mismatch("digest", "checkpoint", str(approved), str(said or f"{len(weights)} files of weights"))]
        return self._result("tensors" if by_weights else "files", seen, mismatches, tensors, content)

    def against_file(self, approved: Approved) -> VerifiedImage:
        subject, same = self.subject, dict[int, LocalLayer]()
        recipe, ownership = subject.recipe, subject.ownership
        made: tuple[LocalLayer, ...] = ()
        if recipe is not None and ownership is not None:
            made, why = try_layers(approved, recipe, ownership, subject.name)
            if why:
                self.notes.append(f"its layers could not be computed: {why}")
            by_digest = {layer.diff_id: layer for layer in made}
            same = {
                index: by_digest[diff_id]
                for index, diff_id in zip(subject.own, subject.diff_ids, strict=True)
                if diff_id in by_digest
            }
            if len(same) == len(subject.own) == len(made):
                known: dict[int, Sequence[Node]] = {index: _nodes(layer.files) for index, layer in same.items()}
                seen = self._seen(known)
                tensors, _ = united(seen.files.items())
                return self._result("layers", seen, [], tensors, self._content(seen))
        lacking: LocalResourceError | None = None
        try:
            weights = approved.holds_weights(self.key)
        except LocalResourceError as error:  # the files may be the same
            weights, lacking = False, error
        nodes = self._nodes(tensors=weights, known=same)
        for index, layer in same.items():
            nodes[index] = _nodes(approved.completed(layer, self.key) if weights else layer.files)
        found = self._compared(approved, made, self._seen(nodes), weights)
        if lacking is not None and not found.holds and not self.layers.failures:
            raise lacking
        return found

    def _compared(self, approved: Approved, made: Sequence[LocalLayer], seen: View, weights: bool) -> VerifiedImage:
        """By tensors, of what packing gave and else of the file itself; else by files, which may differ in those."""
        ours = self.subject.ours
        tensors, why = united((path, known) for path, known in seen.files.items() if ours or known.format)
        converted, _ = united(item for layer in made for item in layer.files.items())
        content = self._content(seen)
        if converted and tensors and not compare_tensors(converted, tensors):
            return self._result("tensors", seen, [], tensors, content)
        exact = set(approved.digests.values())
        relevant = {p: known for p, known in seen.files.items() if ours or known.format or known.digest in exact}
        by_files = compare_files(approved.digests, relevant)
        if not by_files:
            return self._result("files", seen, [], tensors, content)
        if not weights or tensors is None:
            if weights:
                self._raise_missing(seen)
                self.notes.append(f"compared by files, for its tensors are not to be had: {why}")
            elif tensors:
                self.notes.append("compared by files, for the approved ones are in no format of weights")
            return self._result("files", seen, by_files, tensors, content)
        choices = [choice for choice in (converted, approved.tensors(self.key)) if choice]
        mismatches = min((compare_tensors(choice, tensors) for choice in choices), key=len)
        others = [PurePosixPath(m.name).name for m in by_files if m.found and not relevant[m.name].format]
        if others and not mismatches:
            self.notes.append(f"files that hold no weights differ: {', '.join(others[:5])}")
        return self._result("tensors", seen, mismatches, tensors, content)

    # ------------------------------------------------------------------------------------------------ what it takes

    def _nodes(self, *, tensors: bool, digests: bool = True, known: Collection[int] = ()) -> dict[int, Sequence[Node]]:
        """Index -> entries of the layers that hold weights, but for those *known*."""
        found = self.layers.weights((i for i in self.subject.own if i not in known), tensors=tensors, digests=digests)
        seen = any(node.known is not None and node.known.format for nodes in found.values() for node in nodes)
        if not self.subject.ours and not seen:  # an image on one with weights: they are in what looks like its base
            self.subject = self.layers.subject = self.subject.whole
            rest = [index for index in self.subject.own if index not in found]
            found |= self.layers.weights(rest, tensors=tensors, digests=digests)
        return found

    def _seen(self, own: dict[int, Sequence[Node]]) -> View:
        return self.layers.seen(own, self.layers.above() if self.check_above else {})

    def _content(self, seen: View) -> Digest | None:
        """What the files are called, as ``content_digest`` does it; None where that cannot be told."""
        digests = {path: known.digest for path, known in seen.files.items() if known.digest is not None}
        if not self.subject.ours or len(digests) != len(seen.files) or not digests or self.layers.failures:
            return None
        if len(digests) == 1:
            return next(iter(digests.values()))
        target = self.subject.ownership.target if self.subject.ownership is not None else ""
        if not target or not all(PurePosixPath(path).is_relative_to(target) for path in digests):
            return None
        return content_digest({str(PurePosixPath(p).relative_to(target)): digest for p, digest in digests.items()})

    def _unread(self, seen: View, why: str) -> str:
        """In place of a weights hash, why there is none."""
        self._raise_missing(seen)
        return "" if self.layers.failures else f"none: {why}"

    def _raise_missing(self, seen: View) -> None:
        """What this machine lacks (torch, room) is no fault of the image."""
        for known in seen.files.values():
            if isinstance(known.problem, LocalResourceError):
                raise known.problem

    def _kept(self) -> list[Mismatch]:
        """Where the image's key names a ``checkpoint-<key>``, that one must have the same layers."""
        key = self.subject.facts.get(CHECKPOINT_KEY, "")
        other = self._image(checkpoint_tag(key)) if key else None
        return self._other_layers(other) if other is not None else []

    def _image(self, which: str | Digest) -> Image | None:
        found = self.subject.found
        manifest = found.manifest(which) if found.manifest is not None else None
        if not isinstance(manifest, Manifest) or found.stream is None or manifest.config.size > 8 * 1024 * 1024:
            return None
        with found.stream(manifest.config) as chunks:
            return Image.of(manifest, b"".join(chunks))

    def _other_layers(self, other: Image) -> list[Mismatch]:
        theirs, mine = other.config.diff_ids, self.subject.diff_ids
        rows = [(theirs[i] if i < len(theirs) else "", mine[i] if i < len(mine) else "")
                for i in range(max(len(theirs), len(mine)))]  # fmt: skip
        return [
            Mismatch("layer", f"checkpoint layer {number}", str(a), str(b))
            for number, (a, b) in enumerate(rows, 1)
            if a != b
        ]

    def _result(
        self,
        way: Way,
        seen: View | None,
        mismatches: Sequence[Mismatch],
        tensors: Tensors | None = None,
        content: Digest | None = None,
    ) -> VerifiedImage:
        image = self.subject.image
        hidden = [
            Mismatch("hidden", item.path, "", f"by layer {image.manifest.layers[item.index].digest}")
            for item in (seen.hidden if seen is not None else ())
        ]
        if seen is not None and not self.check_above and self.subject.above:
            self.notes.append("layers above the checkpoint's were not looked into: they may hide its files")
        return VerifiedImage(
            str(image.platform),
            image.manifest.digest,
            way,
            self.subject.layers,
            self.layers.read_layers,
            weights_hash(tensors) if tensors else None,
            content,
            len(tensors or ()),
            # Of a damaged layer it is not known what should be in it.
            (*self.layers.failures, *(() if self.layers.failures else mismatches), *hidden),
            self.layers.read,
            tuple(self.notes),
        )


def _nodes(files: Mapping[str, Known]) -> list[Node]:
    return [Node(path, "file", known) for path, known in files.items()]
