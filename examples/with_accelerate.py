"""An LSTM on made-up text with Accelerate: half a minute on a CPU, no downloads.

gradhelm up                          # in another terminal, and open the address it prints
python examples/with_accelerate.py   # or, without a server: GRADHELM_MODE=disabled python …
"""

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from gradhelm.integrations import accelerate as gradhelm_accelerate

torch.manual_seed(0)
WORDS, STEPS = 32, 600


class Speaker(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 64)
        self.lstm = nn.LSTM(64, 64, batch_first=True)
        self.decoder = nn.Linear(64, WORDS)

    def forward(self, words: Tensor) -> Tensor:
        logits = self.decoder(self.lstm(self.embedding(words[:, :-1]))[0])
        return nn.functional.cross_entropy(logits.flatten(0, 1), words[:, 1:].flatten())


def text(sequences: int) -> Tensor:
    """[sequences, 24]: each counts upwards in a step of its own."""
    start, step = torch.randint(1, WORDS, (2, sequences, 1))
    return (start + step * torch.arange(24)) % WORDS


accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
model = Speaker()
optimizer = torch.optim.SGD(model.parameters(), lr=10.0)
model, optimizer = accelerator.prepare(model, optimizer)

with gradhelm_accelerate.attach(
    accelerator, model, optimizer, max_norm=0.25, config={"total_steps": STEPS}
) as run:
    for _ in range(2 * STEPS):
        with accelerator.accumulate(model):
            loss = model(text(16).to(accelerator.device))
            accelerator.backward(loss)
            optimizer.step()  # every second time it steps, and then the run has clipped
            optimizer.zero_grad()
        run.log(loss=loss)
print(f"loss {loss.item():.3f} after {run.step} steps")
