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
