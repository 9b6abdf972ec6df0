"""What tests of locks that change shapes have in common."""

from redteam_attacks.shape_restore import shape_restore

from redteam.key import Key
from redteam.views import AttackerView, DefenderView

KEY, OTHER = Key(bytes(range(32))), Key(bytes(range(1, 33)))


def protect(checkpoint, *defenses, key=KEY, **settings):
    for defend in defenses:
        checkpoint = defend(DefenderView(checkpoint, checkpoint, key), **settings)
    return checkpoint


def restored(protected, anchor):
    return shape_restore(AttackerView.by_hand(protected, anchor=anchor))


def distance(one, two):
    return max(float((one[n].double() - two[n].double()).norm() / two[n].double().norm()) for n in two)


def shapes(checkpoint):
    return {name: checkpoint.shape(name) for name in checkpoint}
