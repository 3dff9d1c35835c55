"""Card texts: what the model cards say of each miniature, templates to be filled in."""

from prunebench.testbed.card import CardText, answer_figures, film_figures, match_figures

DENSE = """\
which colour, shape, digits and size lie there and whether it is an object's centre. Those without
   an object weigh {background}, digits {digits}."""

QUESTIONS = """\
{questions} questions stand behind each image, each blind to the others; how often each kind comes
   is said by `shares`. The loss is that of the answers, plus {dense} of the labels', plus
   {evidence} of -log of the attention that the question's last word pays to the boxes of its
   evidence in {evidence_heads} heads of one layer, and {early} of -log of what falls elsewhere in
   the layers before. **Which layer reads which kind of question is set by hand** (`levels`), so
   that what is seen moves to the answer gradually, as in large models; counting all objects is left
   to itself. No token was ever dropped in training. The selecting word stands last in every
   question and nothing stands between it and the answer, in the chat template neither."""

FROZEN = f"""\
{{step}} steps on freshly generated scenes, in {{minutes:.0f}} minutes on {{device}}
(`training.csv` has the curves). {{begins}}
The tower stays as it is.

1. A linear head says of every projected token {DENSE}
2. At the same time, {QUESTIONS}"""
"""Of a model whose vision tower is there already; `begins` is what the weights begin as."""

TASKS = """\
It answers questions of twelve kinds about generated scenes of coloured shapes with numbers, and
nothing else. Answers are one word or two."""

FURTHER = """\
{step} steps from the weights of that run, on scenes that it had not seen, in {minutes:.0f} minutes
on {device} (`training_further.csv` has the curves). {course}"""
"""Of a miniature that is trained further; `course` is what its stages are."""

QWEN = CardText(
    pipeline="image-text-to-text",
    about=f"""\
A miniature of Qwen2.5-VL for trying visual-token pruning without downloads: the stock transformers
class `Qwen2_5_VLForConditionalGeneration` with {{parameters:,}} parameters in 12 LLM layers, a
word-level tokenizer and the stock image and video processing, 25 to 256 visual tokens an image (400
in fine scenes). {TASKS}""",
    training=f"""\
Three stages on freshly generated scenes, {{step}} steps in {{minutes:.0f}} minutes on
{{device}} (`training.csv` has the curves).

1. {{vision_steps}} steps of the vision tower alone: a linear head says of every visual token
   {DENSE}
2. {{place_steps}} steps of the language model, most about places, which are learnt slowest. The run
   stops behind them where `gates` are not reached.
3. {{joint_steps}} steps of the whole model: {QUESTIONS}""",
    figures=answer_figures,
    further=FURTHER,
)

QWEN_VIDEO = CardText(
    pipeline="image-text-to-text",
    about="""\
tiny-qwen2.5-vl, trained further on clips and pairs of pictures: the stock transformers class
`Qwen2_5_VLForConditionalGeneration` with {parameters:,} parameters in 12 LLM layers, a word-level
tokenizer and the stock image and video processing, 25 to 256 visual tokens an image (400 in fine
scenes), 100 or 144 a clip of eight frames, 98 or 128 a pair. It answers questions of twelve kinds
about generated scenes of coloured shapes with numbers, of some about clips and pairs of them, and
nothing else. Answers are one word or two.""",
    training=f"""\
{{step}} steps from the weights of tiny-qwen2.5-vl, in {{minutes:.0f}} minutes on {{device}}
(`training.csv` has the curves). The vision tower stays as it is. Each step is of scenes, of clips
or of pairs, as often as `media` says. A clip has four moments of two frames each, in which nothing
changes, for the encoder makes one token of two frames. `finish`, `clips` and `pairs` say how often
each kind of question comes about each; about clips and pairs, {{film_questions}} stand behind each
film. What is not named there is not learnt. The vision tower's labels do not count in the loss.

{QUESTIONS}""",
    figures=film_figures,
)

QWEN3 = CardText(
    pipeline="image-text-to-text",
    about=f"""\
A miniature of Qwen3-VL for trying visual-token pruning without downloads: the stock transformers
class `Qwen3VLForConditionalGeneration` with {{parameters:,}} parameters in 12 LLM layers, behind
the first three of which features of the encoder's earlier blocks are added (deepstack); a
word-level tokenizer and the stock image processing, 25 to 256 visual tokens an image (400 in fine
scenes). {TASKS}""",
    training=f"""\
Two stages on freshly generated scenes, {{step}} steps in {{minutes:.0f}} minutes on
{{device}} (`training.csv` has the curves).

1. {{vision_steps}} steps of the vision tower alone: a linear head says of every visual token
   {DENSE}
2. {{joint_steps}} steps of the whole model: {QUESTIONS}""",
    figures=answer_figures,
    further=FURTHER,
)

CLIP = CardText(
    pipeline="zero-shot-image-classification",
    about="""\
A miniature of CLIP: the stock transformers class `CLIPModel` with {parameters:,} parameters, a
word-level tokenizer and the stock image processing, which squashes an image to 168 px: 144 patches
and a CLS token. It knows generated scenes of coloured shapes with digits, and captions and
questions about them, and nothing else. The LLaVA miniatures have its vision tower; its text tower
is there for pruning methods that compare the question with the image.""",
    training=f"""\
{{step}} steps on freshly generated scenes, {{images}} views of them a step: two of three are whole
scenes squashed, the others tiles as LLaVA-NeXT cuts them; {{minutes:.0f}} minutes on
{{device}} (`training.csv` has the curves). In the first {{crowded_steps}} steps every scene has
many objects, afterwards scenes are as they come, {{fine:.0%}} of them fine ones. The patch
embedding begins with whitened principal components of patches, the position embedding with sines
and cosines: from the stock start, shapes were learnt several times slower.

1. A linear head says of every patch before the last block {DENSE}
2. At the same time, with weight {{contrast}}, the contrastive loss of CLIP between views and
   captions: lists of all objects in the view, or some words about one of them, perhaps as a
   question. A caption that is true of another view, too, does not count against it.
3. In the last {{aligned_steps}} steps, of {{aligned_images}} views each, the patches stay as they
   are and only what lies behind them learns by the contrastive loss: the last block, the text
   tower and the projections.""",
    figures=match_figures,
)

LLAVA = CardText(
    pipeline="image-text-to-text",
    about=f"""\
A miniature of LLaVA-1.5 for trying visual-token pruning without downloads: the stock transformers
class `LlavaForConditionalGeneration` with {{parameters:,}} parameters in 12 LLM layers, a CLIP
vision tower read before its last block, a word-level tokenizer and the stock image processing,
which squashes an image to 168 px: 144 visual tokens. {TASKS}""",
    training=FROZEN.replace(
        "{begins}",
        "The vision tower is that of tiny-clip, the language model begins as that of "
        "tiny-qwen2.5-vl, the projector at random.",
    ),
    figures=answer_figures,
    further=FURTHER,
)

LLAVA_NEXT = CardText(
    pipeline="image-text-to-text",
    about=f"""\
A miniature of LLaVA-NeXT for trying visual-token pruning without downloads: the stock transformers
class `LlavaNextForConditionalGeneration` with {{parameters:,}} parameters in 12 LLM layers, a CLIP
vision tower read before its last block, a word-level tokenizer and the stock image processing: a
thumbnail of 168 px in 144 visual tokens and up to 2x2 tiles of 168 px in up to 600. {TASKS}""",
    training=FROZEN.replace("{begins}", "All weights begin as those of tiny-llava-1.5.")
    + """
   Of the scenes, {fine:.0%} are fine ones.""",
    figures=answer_figures,
    further=FURTHER,
)
