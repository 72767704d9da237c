"""What `symrob report` costs with many runs, and how soon its page can be used.

The run directories are made up, of realistic size: real configurations, 200 epochs of metrics, 1,000 images under two
attacks at 15 epsilons, eight adversarial examples. The command runs in a process of its own; the page is opened from disk in Chromium,
and counts as usable once the answer has followed a change of the question.
"""

RUNS = 1000
NETWORKS = ("standard", "parallel_rotation", "parallel_scale", "parallel_rotation_scale", "cascaded", "weighted")
DATA = ("cifar10", "cifar100")
EPOCHS, IMAGES, EXAMPLES = 200, 1000, 8
