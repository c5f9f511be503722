"""Writes configurations of the paper's large models for `random:<folder>`, which builds them with random weights.

The sizes are those of the models' published config.json.
"""

from pathlib import Path


def write_vit_mae_large(folder: Path) -> str:
    """Writes the configuration of facebook/vit-mae-large, the LAM's frame encoder, and returns its name."""
    import transformers

    config = transformers.ViTMAEConfig(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096
    )
    config.save_pretrained(folder)
    return f"random:{folder}"


def write_qwen3_vl_2b(folder: Path) -> str:
    """Qwen/Qwen3-VL-2B-Instruct, with a tokenizer of a few words instead of its own."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    special = ["<|vision_start|>", "<|image_pad|>", "<|vision_end|>", "<|video_pad|>"]
    words = Tokenizer(models.WordLevel({"<unk>": 0, "<pad>": 1}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", pad_token="<pad>", additional_special_tokens=special
    )
    start, image, end, video = tokenizer.convert_tokens_to_ids(special)
    template = (
        "{% for message in messages %}{% for part in message['content'] %}{% if part['type'] == 'image' %}"
        "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
    )
    transformers.Qwen3VLProcessor(
        transformers.Qwen2VLImageProcessor(patch_size=16),
        tokenizer,
        transformers.Qwen3VLVideoProcessor(),
        chat_template=template,
    ).save_pretrained(folder)
    transformers.Qwen3VLConfig(
        text_config={
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "vocab_size": 151936,
            "rope_parameters": {"rope_type": "default", "mrope_section": [24, 20, 20], "rope_theta": 5e6},
        },
        vision_config={
            "depth": 24,
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_heads": 16,
            "out_hidden_size": 2048,
            "patch_size": 16,
            "num_position_embeddings": 2304,
            "deepstack_visual_indexes": [5, 11, 17],
        },
        vision_start_token_id=start,
        image_token_id=image,
        vision_end_token_id=end,
        video_token_id=video,
    ).save_pretrained(folder)
    return f"random:{folder}"


def write_smolvlm2_500m(folder: Path, *, tiny: bool = False) -> str:
    """HuggingFaceTB/SmolVLM2-500M-Video-Instruct, with a tokenizer of a few words; returns the folder's name.

    Args:
        folder: Created.
        tiny: Few and narrow layers, to try a script on a CPU.
    """
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    named = {
        "image_token": "<image>",
        "fake_image_token": "<fake_token_around_image>",
        "global_image_token": "<global-img>",
        "end_of_utterance_token": "<end_of_utterance>",
    }
    words = Tokenizer(models.WordLevel({"<unk>": 0, "<pad>": 1, "<bos>": 2, "<eos>": 3}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words,
        unk_token="<unk>",
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        extra_special_tokens=named,
    )
    transformers.SmolVLMProcessor(
        transformers.SmolVLMImageProcessor(),
        tokenizer,
        transformers.SmolVLMVideoProcessor(),
        image_seq_len=64,
        chat_template="x",
    ).save_pretrained(folder)
    text = {
        "model_type": "llama",
        "hidden_size": 960,
        "intermediate_size": 2560,
        "num_hidden_layers": 32,
        "num_attention_heads": 15,
        "num_key_value_heads": 5,
        "head_dim": 64,
        "vocab_size": 49280,
        "max_position_embeddings": 8192,
        "pad_token_id": 1,
    }
    vision = {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "image_size": 512,
        "patch_size": 16,
    }
    if tiny:
        text |= {"num_hidden_layers": 2}
        vision |= {"num_hidden_layers": 1, "image_size": 64}
    transformers.SmolVLMConfig(
        text_config=text,
        vision_config=vision,
        scale_factor=4,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    ).save_pretrained(folder)
    return str(folder)
