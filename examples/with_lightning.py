"""An LSTM on made-up text with Lightning: half a minute on a CPU, no downloads.

gradhelm up                         # in another terminal, and open the address it prints
python examples/with_lightning.py   # or, without a server: GRADHELM_MODE=disabled python …
"""

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from gradhelm.integrations.lightning import GradhelmCallback

torch.manual_seed(0)
WORDS = 32


def text(sequences: int) -> Tensor:
    """[sequences, 24]: each counts upwards in a step of its own."""
    start, step = torch.randint(1, WORDS, (2, sequences, 1))
    return (start + step * torch.arange(24)) % WORDS


class Speaker(LightningModule):
    def __init__(self, lr: float = 10.0) -> None:
        super().__init__()
        self.save_hyperparameters()  # shown as the run's configuration
        self.embedding = nn.Embedding(WORDS, 64)
        self.lstm = nn.LSTM(64, 64, batch_first=True)
        self.decoder = nn.Linear(64, WORDS)

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        logits = self.decoder(self.lstm(self.embedding(batch[:, :-1]))[0])
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.hparams.lr)


trainer = Trainer(
    accelerator="cpu",
    max_epochs=5,
    gradient_clip_val=0.25,  # the callback's threshold, unless it is given one of its own
    callbacks=[GradhelmCallback(name="lstm counts")],
    logger=False,
    enable_checkpointing=False,
)
trainer.fit(Speaker(), torch.utils.data.DataLoader(text(4096), batch_size=32, shuffle=True))
