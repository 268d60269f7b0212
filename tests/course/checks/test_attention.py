import torch.nn.functional as F

from tests.course.checks import mutant, refused


def spatial(x):
    return F.normalize(x.square().mean(1).flatten(1), dim=1)


def channel(x):
    return x.square().mean((2, 3)).softmax(1)


@mutant("attention_maps", says="None")
def forgets_to_return(x):
    spatial(x), channel(x)


@mutant("attention_maps", says="swapped")
def swapped(x):
    return channel(x), spatial(x)


@mutant("attention_maps", says="flatten it")
def not_flat(x):
    return spatial(x).view(len(x), *x.shape[2:]), channel(x)


@mutant("attention_maps", says="spatial map is not normalised")
def energies_only(x):
    return x.square().mean(1).flatten(1), channel(x)


@mutant("attention_maps", says="spatial rows sum to one")
def spatial_of_unit_sum(x):
    return F.normalize(x.square().mean(1).flatten(1), p=1, dim=1), channel(x)


@mutant("attention_maps", says="whole batch has length 1")
def batch_of_unit_length(x):
    energy = x.square().mean(1).flatten(1)
    return energy / energy.norm(), channel(x)


@mutant("attention_maps", says="square of the mean over channels")
def square_of_means(x):
    return F.normalize(x.mean(1).square().flatten(1), dim=1), channel(x)


@mutant("attention_maps", says="square of the mean over positions")
def square_of_means_by_channel(x):
    return spatial(x), x.mean((2, 3)).square().softmax(1)


@mutant("attention_maps", says="softmax runs over the batch")
def softmax_over_batch(x):
    return spatial(x), x.square().mean((2, 3)).softmax(0)


@mutant("attention_maps", says="end with a softmax")
def no_softmax(x):
    return spatial(x), x.square().mean((2, 3))


@mutant("attention_maps", says="sum over positions")
def sums_positions(x):
    return spatial(x), x.square().sum((2, 3)).softmax(1)


@mutant("attention_maps", says="forgets the square")
def forgets_the_square(x):
    return spatial(x), x.mean((2, 3)).softmax(1)


@mutant("attention_maps", says="two softmaxes")
def softmax_twice(x):
    return spatial(x), channel(x).softmax(1)


@mutant("attention_maps", says="0 is divided by 0")
def dies_on_a_dead_map(x):
    energy = x.square().mean(1).flatten(1)
    return energy / energy.norm(dim=1, keepdim=True), channel(x)


def kl(p, q, tiny=1e-12):
    return (p * ((p + tiny).log() - (q + tiny).log())).sum(dim=1)


def distributions(*maps):
    return [m / m.sum(dim=1, keepdim=True) for m in maps]


@mutant("divergence", says="None")
def forgets_to_return_it(teacher, student):
    kl(*distributions(teacher, student))


@mutant("divergence", says="KL(student || teacher)")
def other_direction(teacher, student):
    return kl(*distributions(student, teacher))


@mutant("divergence", says="no distributions yet")
def forgets_to_divide(teacher, student):
    return kl(teacher, student)


@mutant("divergence", says="softmax is not the division")
def softmax_first(teacher, student):
    return kl(teacher.softmax(1), student.softmax(1))


@mutant("divergence", says="one sum over the batch")
def one_number(teacher, student):
    return kl(*distributions(teacher, student)).sum()


@mutant("divergence", says="one for each row")
def mean_over_the_batch(teacher, student):
    return kl(*distributions(teacher, student)).mean()


@mutant("divergence", says="KL is their sum")
def mean_over_positions(teacher, student):
    return kl(*distributions(teacher, student)) / teacher.shape[1]


@mutant("divergence", says="sign is wrong")
def negative(teacher, student):
    return -kl(*distributions(teacher, student))


@mutant("divergence", says="cross-entropy")
def cross_entropy(teacher, student):
    p, q = distributions(teacher, student)
    return -(p * (q + 1e-12).log()).sum(1)


@mutant("divergence", says="symmetric")
def both_directions(teacher, student):
    p, q = distributions(teacher, student)
    return (kl(p, q) + kl(q, p)) / 2


@mutant("divergence", says="squared differences")
def squared_differences(teacher, student):
    p, q = distributions(teacher, student)
    return (p - q).square().sum(1)


@mutant("divergence", says="keep the logarithms finite")
def infinite_at_zero(teacher, student):
    return kl(*distributions(teacher, student), tiny=0)


test_mutants = refused(__name__)
