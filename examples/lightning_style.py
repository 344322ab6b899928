"""The model as a LightningModule. Lightning is no dependency of promptvit: where it is installed, its Trainer runs the module; where it
is not, the few lines of ``Trainer`` below do, and they say so.

    python examples/lightning_style.py --backbone mae-tiny --epochs 20
"""

import argparse
from typing import Any

import torch
from torch.utils.data import DataLoader, TensorDataset

import promptvit

try:
    from lightning import LightningModule, Trainer

    WHO = "lightning's Trainer"
except ImportError:
    WHO = "this file's own Trainer (lightning is not installed)"

    class LightningModule(torch.nn.Module):  # type: ignore[no-redef]
        """Stands in for lightning's."""

        def log(self, name: str, value: Any, **_: Any) -> None:
            print(f"{name}: {float(value):.4f}")

    class Trainer:  # type: ignore[no-redef]
        """What this example needs of lightning's, on the CPU."""

        def __init__(self, max_epochs: int, **_: Any) -> None:
            self.max_epochs = max_epochs

        def fit(self, module: Any, batches: DataLoader) -> None:
            optimizers, schedules = module.configure_optimizers()
            for _ in range(self.max_epochs):
                module.train()
                for index, batch in enumerate(batches):
                    optimizers[0].zero_grad()
                    module.training_step(batch, index).backward()
                    optimizers[0].step()
                    module.on_train_batch_end(None, batch, index)
                schedules[0].step()

        def test(self, module: Any, batches: DataLoader) -> None:
            module.eval()
            with torch.no_grad():
                for index, batch in enumerate(batches):
                    module.test_step(batch, index)


class PromptTuning(LightningModule):
    """Nothing but the usual hooks around a :class:`promptvit.PromptedModel`."""

    def __init__(self, model: promptvit.PromptedModel, lr: float, epochs: int) -> None:
        super().__init__()
        self.model, self.lr, self.epochs = model, lr, epochs

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        images, labels = batch
        return self.model.method.loss(self.model.outputs(images), labels)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.model.method.project()  # some methods keep a parameter in its range

    def test_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        images, labels = batch
        self.log("test accuracy", (self.model(images).argmax(dim=-1) == labels).float().mean())

    def configure_optimizers(self) -> tuple[list[Any], list[Any]]:
        optimizer = torch.optim.AdamW([p for _, p in self.model.trainable_parameters()], lr=self.lr)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.epochs)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="mae-tiny", help="bundled or timm name, or a checkpoint file")
    parser.add_argument("--method", default="gapt")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--shots", type=int, default=20, help="training images per class")
    args = parser.parse_args()

    torch.manual_seed(0)
    data = promptvit.load_dataset("digits", shots=args.shots)
    model = promptvit.create_model(args.backbone, args.method, len(data.classes), classes=data.classes)

    def batches(split: promptvit.data.Split, size: int, shuffle: bool = False) -> DataLoader:
        images = torch.stack([model.preprocess(split.image(i)) for i in range(len(split))])
        return DataLoader(TensorDataset(images, torch.tensor(split.labels)), batch_size=size, shuffle=shuffle)

    print(f"run by {WHO}")
    trainer = Trainer(max_epochs=args.epochs, accelerator="cpu", logger=False, enable_checkpointing=False)
    module = PromptTuning(model, lr=0.02, epochs=args.epochs)
    trainer.fit(module, batches(data.splits["train"], 32, shuffle=True))
    trainer.test(module, batches(data.splits["test"], len(data.splits["test"])))


if __name__ == "__main__":
    main()
