"""A small GPT-2 on made-up text with the Hugging Face Trainer: half a minute on a CPU, no downloads.

gradhelm up                           # in another terminal, and open the address it prints
python examples/with_huggingface.py   # or, without a server: GRADHELM_MODE=disabled python …
"""

import tempfile

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from gradhelm.integrations.transformers import GradhelmCallback

torch.manual_seed(0)
WORDS = 64


class Counting(torch.utils.data.Dataset):
    """Sequences that count upwards in steps of their own; some words are noise."""

    def __len__(self) -> int:
        return 4096

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        draw = torch.Generator().manual_seed(index)
        start, step = torch.randint(1, WORDS, (2,), generator=draw)
        words = (start + step * torch.arange(32)) % WORDS
        noise = torch.rand(32, generator=draw) < 0.05
        words[noise] = torch.randint(WORDS, (int(noise.sum()),), generator=draw)
        return {"input_ids": words, "labels": words}


model = GPT2LMHeadModel(
    GPT2Config(
        vocab_size=WORDS,
        n_positions=32,
        n_embd=64,
        n_layer=2,
        n_head=4,
        bos_token_id=0,
        eos_token_id=0,
    )
)
arguments = TrainingArguments(
    output_dir=tempfile.mkdtemp(),
    run_name="gpt2 counts",
    per_device_train_batch_size=16,
    learning_rate=3e-3,
    max_steps=400,
    max_grad_norm=1.0,  # the callback's threshold, unless it is given one of its own
    logging_steps=10,
    save_strategy="no",
    report_to="none",
    use_cpu=True,
)
Trainer(model, arguments, train_dataset=Counting(), callbacks=[GradhelmCallback()]).train()
