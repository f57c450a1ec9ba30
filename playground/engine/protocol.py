"""What parent and worker say to each other. The parent's only door into playground.engine.

One duplex pipe, one msgpack frame a message. The parent sends one request at a time and reads replies until a
final one: `Failed`, or R of its `Request[R]`. `Cancel` may be sent at any moment. EOF ends the worker.
"""

from __future__ import annotations

from multiprocessing.connection import Connection
from typing import Any, Generic, TypeVar, get_args

import msgspec

from playground.values.answer import TokenDrift, TokenScore
from playground.values.engine_defaults import EngineSettings, Trial
from playground.values.files import Half
from playground.values.reasoning import Written
from playground.values.request import Image, Runtime, Sampling


class Message(msgspec.Struct, frozen=True, tag=True):
    pass


# --- worker to parent -----------------------------------------------------------------------------------------


class Device(msgspec.Struct, frozen=True):
    """A GPU as ggml sees it."""

    name: str
    description: str
    total_bytes: int
    free_bytes: int


class Ready(Message, frozen=True, tag=True):
    """The first message: llama.cpp is imported and requests can come."""

    engine: str  # versions of llama-cpp-python and llama.cpp
    gpu_offload: bool  # built with a GPU backend
    devices: tuple[Device, ...] = ()


class MemoryPlan(Message, frozen=True, tag=True):
    """None: llama.cpp did not say. Cache and buffers of all devices together."""

    kv_cache_bytes: int | None
    compute_bytes: int | None
    patches: int | None = None  # of the image that an encoder's buffers were reserved for


class Loaded(Message, frozen=True, tag=True):
    load_s: float
    warmup_s: float
    n_ctx_train: int
    plan: MemoryPlan | None = None  # of an encoder: what llama.cpp reserved, and for which image


class Bandwidth(Message, frozen=True, tag=True):
    """Bytes read plus bytes written, per second: the best of several copies."""

    bytes_per_s: float
    device: str


class DefaultsMeasured(Message, frozen=True, tag=True):
    """How fast each candidate is (engine/trials.py); as values.engine_defaults.EngineDefaults has them."""

    usual: EngineSettings
    trials: tuple[Trial, ...]
    depth: int
    seconds: float
    waited_s: float | None  # within the seconds: for a free processor, all threads together; None: not known


class TextChunk(Message, frozen=True, tag=True):
    token_ids: tuple[int, ...]


class EncoderInput(msgspec.Struct, frozen=True):
    """A preprocessed image, as the encoder's graph gets it."""

    shape: tuple[int, ...]  # images, channels, height, width
    values: bytes  # float32


class ImageChunk(Message, frozen=True, tag=True):
    """A stretch of image embeddings; a tiled image has several.

    embeddings: n_tokens x n_embd_inp float32, empty if the image came without pixels.
    positions: with M-RoPE, 4 x n_tokens int32 in the order t, y, x, z; else empty.
    pixels: width and height that the encoder saw. None: mtmd tells the grid of tokens with M-RoPE only.
    inputs: what it saw, if the worker keeps it (LoadVision.keep_inputs).
    """

    image: int  # which of the images
    key: str  # equal keys have equal embeddings
    n_tokens: int
    n_pos: int  # how far the position advances; not n_tokens with M-RoPE
    non_causal: bool
    positions: bytes
    embeddings: bytes
    pixels: tuple[int, int] | None = None
    inputs: tuple[EncoderInput, ...] = ()


def n_tokens(chunk: TextChunk | ImageChunk) -> int:
    return len(chunk.token_ids) if isinstance(chunk, TextChunk) else chunk.n_tokens


class EncodedPrompt(Message, frozen=True, tag=True):
    """A prompt ready for any language model of the family: all that a generation needs."""

    chunks: tuple[TextChunk | ImageChunk, ...]
    n_embd: int
    rendered: str
    preprocess_s: float
    encode_s: float | None  # None: no image was encoded
    template_names: tuple[str, ...] = ()  # of variables, filters and attributes in the chat template
    warnings: tuple[str, ...] = ()  # what llama.cpp says about the encoder's images when it loads the projector

    @property
    def n_tokens(self) -> int:
        return self.n_image_tokens + self.n_text_tokens

    @property
    def n_image_tokens(self) -> int:
        return sum(c.n_tokens for c in self.chunks if isinstance(c, ImageChunk))

    @property
    def n_image_tiles(self) -> int | None:
        """None: each image is whole."""
        images = [c.image for c in self.chunks if isinstance(c, ImageChunk)]
        return len(images) if len(images) > len(set(images)) else None

    @property
    def prefix(self) -> tuple[TextChunk | ImageChunk, ...]:
        """The chunks up to the last image, which prompts about one picture share."""
        n = 1 + max((i for i, chunk in enumerate(self.chunks) if isinstance(chunk, ImageChunk)), default=-1)
        return self.chunks[:n]

    @property
    def widest(self) -> int:
        """Tokens of the largest image that is decoded without a causal mask: all of it goes into one micro-batch."""
        return max((c.n_tokens for c in self.chunks if isinstance(c, ImageChunk) and c.non_causal), default=0)

    @property
    def n_text_tokens(self) -> int:
        return sum(len(c.token_ids) for c in self.chunks if isinstance(c, TextChunk))


class Chunk(Message, frozen=True, tag=True):
    """A piece of what is written; several tokens if they come faster than a person can see."""

    text: str  # of the answer, with the control tokens that are part of it
    token_ids: tuple[int, ...]  # of all that was written
    reasoning: str = ""
    all_reasoned: bool = False  # the text of all chunks before this one was reasoning
    controls: tuple[str, ...] = ()  # the different control tokens in its text
    control_ids: tuple[int, ...] = ()  # theirs

    @property
    def written(self) -> Written:
        return Written(self.reasoning, self.text, self.all_reasoned)


class Finished(Message, frozen=True, tag=True):
    """Times of one generation, by one clock inside the worker. None: it was stopped before that."""

    reason: str
    context_s: float | None  # a new context had to be made and warmed up; not part of the times below
    prompt_s: float | None
    first_token_s: float | None  # from the request's arrival to the first token
    decode_s: float | None  # from the first token to the last one
    generated_tokens: int
    reused_tokens: int
    # (seconds behind the first token, tokens behind it by then), at most 40 steps.
    progress: tuple[tuple[float, int], ...] = ()
    reasoning_tokens: int = 0  # with the marks around the reasoning
    reasoning_s: float | None = None  # from the first token to the reasoning's last; None: there is none
    in_reasoning: bool = False  # the end came before the reasoning's
    raw: str | None = None  # with all control tokens and the reasoning's marks; None if the answer is all of it
    waited_s: float | None = None  # within decode_s: for a free processor, all threads together; None: not known
    settings: EngineSettings | None = None  # None: it was stopped before that


class Scored(Message, frozen=True, tag=True):
    """One for each token, and one for what would come behind the last."""

    scores: tuple[TokenScore, ...]


class Tokenized(Message, frozen=True, tag=True):
    token_ids: tuple[int, ...]


class TokensFound(Message, frozen=True, tag=True):
    """For each piece the tokens that write it, the usual one first; empty: there is none."""

    token_ids: tuple[tuple[int, ...], ...]
    n_vocabulary: int


class Recorded(Message, frozen=True, tag=True):
    n_vocabulary: int
    seconds: float


class Measured(Message, frozen=True, tag=True):
    """One for each token, and one for what would come behind the last."""

    drifts: tuple[TokenDrift, ...]
    seconds: float


class Failed(Message, frozen=True, tag=True):
    """The request failed, the worker lives on. `kind` is a class of playground.errors."""

    kind: str
    message: str


class SequenceChunk(Message, frozen=True, tag=True):
    """A piece of one sequence's answer."""

    id: int
    chunk: Chunk


class SequenceEnded(Message, frozen=True, tag=True):
    """The end of one sequence of a batch. It has no times: the others of the batch share them."""

    id: int
    reason: str  # as of Finished; empty if it failed
    generated_tokens: int = 0
    reused_tokens: int = 0
    in_reasoning: bool = False  # as of Finished
    failed: Failed | None = None
    reasoning_tokens: int = 0  # as of Finished
    scores: tuple[TokenScore, ...] = ()  # of each token, if Join wants them


class SequenceRead(Message, frozen=True, tag=True):
    """One sequence of a batch was read. `drifts` and `log_probability` as its JoinReading wants them."""

    id: int
    n_vocabulary: int = 0
    drifts: tuple[TokenDrift, ...] = ()  # one for each token, and one for what would come behind the last
    log_probability: float | None = None  # of the whole answer, in nats
    failed: Failed | None = None


SequenceReply = SequenceChunk | SequenceEnded | SequenceRead


class BatchEnded(Message, frozen=True, tag=True):
    """Every sequence that joined has ended."""

    steps: int  # calls of llama_decode for tokens of answers
    seconds: float  # of them:
    prefix_s: float = 0.0  # prompts, up to their last image at least
    decode_s: float = 0.0  # the steps, until their logits are there
    idle_s: float = 0.0  # there was no prompt
    tokens: int = 0  # of answers
    prefix_batches: int = 0  # calls of llama_decode in prefix_s


class ImportanceWritten(Message, frozen=True, tag=True):
    tensors: int
    rows: int  # the most that one tensor met: tokens, patches


class Step(Message, frozen=True, tag=True):
    """How far a quantization has come; or the copy of a file, `tensor`, to another machine, in bytes."""

    done: int
    total: int
    tensor: str


class Quantized(Message, frozen=True, tag=True):
    seconds: float
    bytes: int | None  # of all tensors; None if llama.cpp did not say
    notes: tuple[str, ...] = ()  # rows that a type cannot hold, what was taken instead; what the matrix lacks


class GrammarChecked(Message, frozen=True, tag=True):
    """llama.cpp can read it."""


class Pong(Message, frozen=True, tag=True):
    devices: tuple[Device, ...] = ()


class Alive(Message, frozen=True, tag=True):
    """Answers a Heartbeat while a request is served. It is not the request's reply."""


Reply = (
    Ready
    | Loaded
    | MemoryPlan
    | Bandwidth
    | DefaultsMeasured
    | EncodedPrompt
    | Chunk
    | Finished
    | Scored
    | Recorded
    | Tokenized
    | TokensFound
    | Measured
    | SequenceChunk
    | SequenceEnded
    | SequenceRead
    | BatchEnded
    | ImportanceWritten
    | Step
    | Quantized
    | GrammarChecked
    | Pong
    | Alive
    | Failed
)


# --- parent to worker -----------------------------------------------------------------------------------------

R = TypeVar("R", bound=Message)


class Request(Message, Generic[R], frozen=True, tag=True):
    """A question to the worker. Its type parameter is the reply that answers it."""

    @classmethod
    def reply_type(cls) -> type[R]:
        kind: type[R] = get_args(cls.__orig_bases__[0])[0]  # type: ignore[attr-defined]
        return kind


class LoadVision(Request[Loaded], frozen=True, tag=True):
    """Load a projector and, without its weights, a language model that it belongs to.

    observe: collect for an importance matrix while images are encoded (WriteImportance); that is slower.
    keep_inputs: send the preprocessed images with what was encoded of them.
    """

    projector: str
    model: str
    use_gpu: bool
    n_threads: int | None
    observe: bool = False
    image_min_tokens: int | None = None  # of an image, where the encoder resizes images; None: as the file says
    image_max_tokens: int | None = None
    keep_inputs: bool = False


class LoadLanguage(Request[Loaded], frozen=True, tag=True):
    """Load a language model and warm up a context for `runtime`.

    observe: collect for an importance matrix while answers are read (Score, Record, Measure); that is slower, and each
    prompt is read whole.
    """

    model: str
    runtime: Runtime
    observe: bool = False
    sequences: int = 1  # of the context that is warmed up; runtime.n_ctx is the size of all together
    kv_unified: bool = True  # as of OpenBatch


class PlanMemory(Request[MemoryPlan], frozen=True, tag=True):
    """How much memory a language model's context will take, by a load without weights (no_alloc)."""

    load: LoadLanguage


class MeasureBandwidth(Request[Bandwidth], frozen=True, tag=True):
    """Copy memory on the device that this worker sees first, its host if it sees none."""

    bytes: int  # of each of the two buffers


class MeasureDefaults(Request[DefaultsMeasured], frozen=True, tag=True):
    """Try flash attention, threads and context sizes with the loaded language model.

    patient: it never gives up, however busy the processors are and however long it takes.
    """

    patient: bool = False


class ChatMessage(Message, frozen=True, tag=True):
    """One turn. Its images stand before its text, or at `places`: an offset in the text for each image, ascending."""

    role: str
    text: str
    n_images: int = 0
    places: tuple[int, ...] = ()

    @property
    def pieces(self) -> tuple[str, ...]:
        """The texts before, between and behind the images: one more than there are images."""
        ends = (*(self.places or (0,) * self.n_images), len(self.text))
        return tuple(self.text[start:end] for start, end in zip((0, *ends), ends, strict=False))


class Encode(Request[EncodedPrompt], frozen=True, tag=True):
    """Render the chat, tokenize it, encode its images. To a vision worker.

    An image without pixels (rgb empty) is one whose embeddings the parent has: it is planned, not encoded.
    """

    messages: tuple[ChatMessage, ...]
    images: tuple[Image, ...]
    chat_template: str | None = None
    template_variables: dict[str, Any] = {}  # over those that every template is given


class Generate(Request[Finished], frozen=True, tag=True):
    """Write an answer. To a language worker. Sends Chunks before its reply."""

    prompt: EncodedPrompt
    sampling: Sampling
    runtime: Runtime
    begun: tuple[int, ...] = ()  # tokens that the answer has to begin with
    ignore_end: bool = False  # write on behind the end of the answer, up to max_tokens: for a measurement of speed
    cold: bool = False  # read the whole prompt, also what the context holds of a run before


class OpenBatch(Request[BatchEnded], frozen=True, tag=True):
    """Answer many prompts at once. To a language worker.

    The parent then sends Join for each prompt, and CloseBatch behind the last one; Leave and Cancel may come at any
    moment. The worker sends SequenceChunks and one SequenceEnded for each Join. At most `sequences` prompts are in the
    batch at a time; the others wait in the worker. runtime.n_ctx: the tokens that all of them may hold together.
    limit: the tokens of a prompt with its answer; None: what the model was trained for.
    kv_unified: one key-value cache for all sequences, which share the prefix of one picture. False: each has an equal
    part of runtime.n_ctx, with its own prefix, decoded or copied; attention then goes over its own cells alone.
    """

    runtime: Runtime
    sequences: int
    limit: int | None
    widest: int = 0  # tokens of the largest image that is decoded without a causal mask
    kv_unified: bool = True


class Join(Message, frozen=True, tag=True):
    """One more prompt for the batch. An image chunk without embeddings is one that the Join before this one had."""

    id: int
    prompt: EncodedPrompt
    sampling: Sampling
    streamed: bool = True  # False: the answer is sent when it has ended
    n_candidates: int | None = None  # of SequenceEnded.scores, as of Score; None: no scores


class Leave(Message, frozen=True, tag=True):
    """End one sequence: it is answered with SequenceEnded, reason "stopped"."""

    id: int


class CloseBatch(Message, frozen=True, tag=True):
    """No Join will follow."""


class ReadBatch(Request[BatchEnded], frozen=True, tag=True):
    """Read many answers at once. To a language worker. As OpenBatch, with JoinReading and SequenceRead.

    As many as there are sequences are read together, in the order in which they come; the last ones when CloseBatch
    has come. So the same readings make the same batches.
    """

    runtime: Runtime
    sequences: int
    limit: int | None
    widest: int = 0
    kv_unified: bool = True


class JoinReading(Message, frozen=True, tag=True):
    """One more answer to read, to one more prompt."""

    id: int
    prompt: EncodedPrompt
    token_ids: tuple[int, ...]
    against: str = ""  # a file as Measure takes it: the drift from it is wanted
    own: str = ""  # a file that gets what this model holds likely, as Record writes it
    dtype: str = "float32"
    own_stays: bool = False  # only this worker's machine reads `own` again


class Score(Request[Scored], frozen=True, tag=True):
    """Read an answer to a prompt and tell how likely each token was. To a language worker."""

    prompt: EncodedPrompt
    token_ids: tuple[int, ...]
    runtime: Runtime
    n_candidates: int = 5  # the most likely tokens that are reported at each position


class Tokenize(Request[Tokenized], frozen=True, tag=True):
    """The tokens of a text that stands in the middle of others. To a language worker."""

    text: str


class FindTokens(Request[TokensFound], frozen=True, tag=True):
    """The tokens that write some bytes. To a language worker."""

    pieces: tuple[bytes, ...]


class Record(Request[Recorded], frozen=True, tag=True):
    """Read an answer to a prompt and keep what the model held likely at each of its tokens. To a language worker.

    path: a file that is written: (n_tokens + 1) x n_vocabulary natural logarithms of probabilities, of `dtype`
    (float32, or float16 at half the size).
    """

    prompt: EncodedPrompt
    token_ids: tuple[int, ...]
    runtime: Runtime
    path: str
    dtype: str = "float32"


class Measure(Request[Measured], frozen=True, tag=True):
    """Read the same answer and compare with what another model of the same vocabulary recorded.

    path: a file that Record wrote; or, with the ending .npz, the likeliest tokens alone (measuring/packs.py).
    """

    prompt: EncodedPrompt
    token_ids: tuple[int, ...]
    runtime: Runtime
    path: str
    dtype: str = "float32"
    own: str = ""  # a file that gets what this model holds likely, as Record writes it; empty: none
    own_stays: bool = False  # as of JoinReading


class WriteImportance(Request[ImportanceWritten], frozen=True, tag=True):
    """Write what was collected since the last time as an importance matrix, and begin anew. To a worker that observes.

    path: a GGUF file, replaced as a whole. adding: what it holds already is counted in.
    """

    path: str
    dataset: str  # what was read, in words
    adding: bool = False


class TensorType(Message, frozen=True, tag=True):
    """As `llama-quantize --tensor-type pattern=type`: tensors whose name has a match get this ggml type."""

    pattern: str
    kind: str  # of ggml: q4_K, f16


class Quantize(Request[Quantized], frozen=True, tag=True):
    """Quantize a GGUF file into a new one. To a quantize worker. Sends Steps before its reply."""

    source: str
    target: str
    quantization: str  # a llama_ftype by name, such as Q4_K_M
    half: Half
    n_threads: int | None = None
    tensor_types: tuple[TensorType, ...] = ()
    requantize: bool = False  # the source is quantized itself
    dry_run: bool = False  # only how large it would be
    metadata: dict[str, str] = {}  # written into the new file
    imatrix: str = ""  # the path of an importance matrix in GGUF form


class CheckGrammar(Request[GrammarChecked], frozen=True, tag=True):
    """Can llama.cpp read the grammar or the JSON schema? To any worker; it needs no model."""

    sampling: Sampling


class Ping(Request[Pong], frozen=True, tag=True):
    """Is anybody there?"""


class Heartbeat(Message, frozen=True, tag=True):
    """Asks for a sign of life: the thread that reads the pipe answers with Alive, whatever is being computed."""


class Cancel(Message, frozen=True, tag=True):
    """Finish what is being done early. The final reply of the running request still comes."""


AnyRequest = (
    LoadVision
    | LoadLanguage
    | Encode
    | Generate
    | OpenBatch
    | Join
    | Leave
    | CloseBatch
    | ReadBatch
    | JoinReading
    | Score
    | Tokenize
    | FindTokens
    | Record
    | Measure
    | WriteImportance
    | Quantize
    | PlanMemory
    | MeasureBandwidth
    | MeasureDefaults
    | CheckGrammar
    | Ping
    | Heartbeat
    | Cancel
)

BatchMessage = Join | JoinReading | Leave | CloseBatch

_encoder = msgspec.msgpack.Encoder()
_requests: msgspec.msgpack.Decoder[AnyRequest] = msgspec.msgpack.Decoder(AnyRequest)
_replies: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)


def encoded(message: Message) -> bytes:
    return _encoder.encode(message)


def as_request(encoded: bytes) -> AnyRequest:
    return _requests.decode(encoded)


def as_reply(encoded: bytes) -> Reply:
    return _replies.decode(encoded)


def send(connection: Connection, message: Message) -> None:
    """Raises OSError when the other side is gone."""
    connection.send_bytes(encoded(message))


def receive_request(connection: Connection) -> AnyRequest:
    """Raises EOFError or OSError when the parent is gone."""
    return as_request(connection.recv_bytes())


def receive_reply(connection: Connection) -> Reply:
    """Raises EOFError or OSError when the worker is gone."""
    return as_reply(connection.recv_bytes())
