"""Vision-language models of every supported family, tiny and with random weights, as folders like those of the Hub."""

from pathlib import Path

FAMILIES = ("smolvlm", "qwen2_5_vl", "qwen3_vl", "paligemma")
IMAGE_SIZE = {"smolvlm": 32, "qwen2_5_vl": 56, "qwen3_vl": 64, "paligemma": 32}
# Image tokens per camera: (side / patch) ** 2, merged 2 x 2 in all but PaliGemma.
IMAGE_TOKENS = {"smolvlm": 4, "qwen2_5_vl": 4, "qwen3_vl": 4, "paligemma": 16}
NUM_LAYERS = 4
WORDS = [
    "user",
    "assistant",
    ":",
    "push",
    "the",
    "red",
    "square",
    "to",
    "goal",
    "open",
    "drawer",
    "a",
    "robot",
]
CHAT = (
    "{% for message in messages %}{{ message['role'] }} : {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %} assistant :{% endif %}"
)
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 512,
}


def save_tiny_vlm(family: str, folder: Path) -> str:
    """Writes model and processor of a family of `FAMILIES`; returns the folder's name."""
    import torch

    torch.manual_seed(0)
    processor, model = {
        "smolvlm": _smolvlm,
        "qwen2_5_vl": _qwen2_5_vl,
        "qwen3_vl": _qwen3_vl,
        "paligemma": _paligemma,
    }[family]()
    processor.save_pretrained(folder)
    model.save_pretrained(folder)
    return str(folder)


def _tokenizer(*special: str):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {word: i for i, word in enumerate(["<pad>", "<unk>", "<bos>", "<eos>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<bos>", "eos_token": "<eos>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    fast.add_special_tokens({"additional_special_tokens": list(special)})
    return fast


def _smolvlm():
    import transformers as tf

    tokenizer = _tokenizer("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>")
    images = tf.SmolVLMImageProcessor(size={"longest_edge": 128}, max_image_size={"longest_edge": 32})
    processor = tf.SmolVLMProcessor(
        images,
        tokenizer,
        tf.SmolVLMVideoProcessor(),
        image_seq_len=4,
        chat_template=CHAT.replace("IMAGE", "<image>"),
    )
    vision = {
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    text = TEXT | {"model_type": "llama", "vocab_size": len(tokenizer), "pad_token_id": 0}
    config = tf.SmolVLMConfig(
        vision_config=vision,
        text_config=text,
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    return processor, tf.SmolVLMForConditionalGeneration(config)


QWEN_TOKENS = ("<|vision_start|>", "<|image_pad|>", "<|vision_end|>", "<|video_pad|>")


def _qwen_parts():
    tokenizer = _tokenizer(*QWEN_TOKENS)
    start, image, end, video = tokenizer.convert_tokens_to_ids(list(QWEN_TOKENS))
    ids = {
        "vision_start_token_id": start,
        "image_token_id": image,
        "vision_end_token_id": end,
        "video_token_id": video,
    }
    return tokenizer, ids, CHAT.replace("IMAGE", "".join(QWEN_TOKENS[:3]))


def _qwen2_5_vl():
    import transformers as tf

    tokenizer, ids, chat = _qwen_parts()
    processor = tf.Qwen2_5_VLProcessor(
        tf.Qwen2VLImageProcessor(), tokenizer, tf.Qwen2VLVideoProcessor(), chat_template=chat
    )
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_heads": 2,
        "out_hidden_size": 32,
        "window_size": 56,
        "fullatt_block_indexes": [1],
    }
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    text = TEXT | {"vocab_size": len(tokenizer), "rope_parameters": rope, "max_window_layers": NUM_LAYERS}
    config = tf.Qwen2_5_VLConfig(vision_config=vision, text_config=text, **ids)
    return processor, tf.Qwen2_5_VLForConditionalGeneration(config)


def _qwen3_vl():
    import transformers as tf

    tokenizer, ids, chat = _qwen_parts()
    images = tf.Qwen2VLImageProcessor(patch_size=16)
    processor = tf.Qwen3VLProcessor(images, tokenizer, tf.Qwen3VLVideoProcessor(), chat_template=chat)
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_heads": 2,
        "out_hidden_size": 32,
        "patch_size": 16,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0],
    }
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    text = TEXT | {"vocab_size": len(tokenizer), "rope_parameters": rope}
    config = tf.Qwen3VLConfig(vision_config=vision, text_config=text, **ids)
    return processor, tf.Qwen3VLForConditionalGeneration(config)


def _paligemma():
    import transformers as tf

    tokenizer = _tokenizer()
    images = tf.SiglipImageProcessor(size={"height": 32, "width": 32})
    images.image_seq_length = 16
    processor = tf.PaliGemmaProcessor(images, tokenizer)
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
        "vision_use_head": False,
        "projection_dim": 32,
    }
    text = TEXT | {"model_type": "gemma", "vocab_size": len(tokenizer)}
    config = tf.PaliGemmaConfig(
        vision_config=vision,
        text_config=text,
        projection_dim=32,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    return processor, tf.PaliGemmaForConditionalGeneration(config)
