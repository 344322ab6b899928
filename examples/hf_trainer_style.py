"""The model in Hugging Face's ``transformers.Trainer`` (``pip install transformers``; it is in the ``test`` extra).

    python examples/hf_trainer_style.py --backbone mae-tiny --steps 200
"""

import argparse
import tempfile

import torch
from torch import Tensor, nn
from transformers import EvalPrediction, Trainer, TrainerCallback, TrainingArguments

import promptvit
from promptvit.data import Split


class ForImageClassification(nn.Module):
    """The interface that ``Trainer`` expects: ``forward(pixel_values, labels)`` gives ``loss`` and ``logits``."""

    def __init__(self, model: promptvit.PromptedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        outputs = self.model.outputs(pixel_values)
        result = {"logits": outputs[0]}
        return result if labels is None else {"loss": self.model.method.loss(outputs, labels), **result}


class Images(torch.utils.data.Dataset):
    """A split of ours as ``Trainer`` wants it."""

    def __init__(self, split: Split, model: promptvit.PromptedModel) -> None:
        self.items = [{"pixel_values": model.preprocess(split.image(i)), "labels": label} for i, label in enumerate(split.labels)]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Tensor | int]:
        return self.items[index]


class Project(TrainerCallback):
    """Some methods keep a parameter in its range after every step."""

    def on_optimizer_step(self, args, state, control, model=None, **_):
        model.model.method.project()


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Share of images that are named right."""
    return {"accuracy": float((prediction.predictions.argmax(axis=-1) == prediction.label_ids).mean())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="mae-tiny", help="bundled or timm name, or a checkpoint file")
    parser.add_argument("--method", default="lspt")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--shots", type=int, default=20, help="training images per class")
    args = parser.parse_args()

    data = promptvit.load_dataset("digits", shots=args.shots)
    model = promptvit.create_model(args.backbone, args.method, len(data.classes), classes=data.classes)
    with tempfile.TemporaryDirectory() as scratch:
        settings = TrainingArguments(
            output_dir=scratch, max_steps=args.steps, per_device_train_batch_size=32, per_device_eval_batch_size=100, learning_rate=5e-3,
            lr_scheduler_type="cosine", warmup_steps=args.steps // 10, save_strategy="no", report_to="none", use_cpu=True, seed=0,
        )
        trainer = Trainer(
            ForImageClassification(model), settings, train_dataset=Images(data.splits["train"], model),
            eval_dataset=Images(data.splits["test"], model), compute_metrics=accuracy, callbacks=[Project()],
        )
        trainer.train()
        print(f"test accuracy: {trainer.evaluate()['eval_accuracy']:.4f}")


if __name__ == "__main__":
    main()
