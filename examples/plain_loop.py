"""The model in a plain PyTorch loop: nothing of promptvit's training code is used.

    python examples/plain_loop.py --backbone mae-tiny --steps 200
"""

import argparse

import torch
from torch.nn import functional as F

import promptvit


def accuracy(model: promptvit.PromptedModel, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of images that are named right."""
    predicted = torch.cat([model.predict(part).probabilities.argmax(dim=-1) for part in images.split(100)])
    return (predicted == labels).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="mae-tiny", help="bundled or timm name, or a checkpoint file")
    parser.add_argument("--method", default="vpt-deep")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--shots", type=int, default=20, help="training images per class")
    parser.add_argument("--save", help="folder for the adapter")
    args = parser.parse_args()

    data = promptvit.load_dataset("digits", shots=args.shots)
    model = promptvit.create_model(args.backbone, args.method, len(data.classes), classes=data.classes)
    tensors = {}
    for name, split in data.splits.items():
        images = torch.stack([model.preprocess(split.image(i)) for i in range(len(split))])
        tensors[name] = images, torch.tensor(split.labels)

    optimizer = torch.optim.AdamW([p for _, p in model.trainable_parameters()], lr=0.02, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.steps)
    images, labels = tensors["train"]
    generator = torch.Generator().manual_seed(0)
    model.train()  # the frozen backbone stays in evaluation mode
    for step in range(args.steps):
        chosen = torch.randint(len(images), (32,), generator=generator)
        loss = F.cross_entropy(model(images[chosen]), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.method.project()  # some methods keep a parameter in its range
        schedule.step()
        if step % 50 == 0:
            print(f"step {step}: loss {loss.item():.3f}")

    print(f"{model.num_trainable:,} of {model.num_total:,} weights learned")
    if args.save:
        print(f"adapter: {model.save_pretrained(args.save)}")
    print(f"test accuracy: {accuracy(model, *tensors['test']):.4f}")


if __name__ == "__main__":
    main()
