"""What the nodes of a traced network do, in one word, and where activations end.

Names are without underscores and in lower case: `relu` stands for nn.ReLU, F.relu and x.relu_.
"""

from collections.abc import Collection

from torch import fx, nn

CONVOLUTION = nn.modules.conv._ConvNd
QUANTIZERS = "activation_quantizers"  # where a student keeps them

ACTIVATIONS = frozenset(
    "relu relu6 leakyrelu prelu rrelu elu selu celu silu gelu mish hardswish hardtanh tanh "
    "sigmoid hardsigmoid softplus logsigmoid softsign threshold hardshrink softshrink tanhshrink "
    "glu".split()
)

# What may give back its input's memory; of modules, while they evaluate.
VIEWS = frozenset(
    "identity dropout dropout1d dropout2d dropout3d alphadropout featurealphadropout flatten "
    "unflatten view viewas reshape reshapeas ravel transpose permute t movedim moveaxis swapaxes "
    "swapdims squeeze unsqueeze expand expandas broadcastto chunk tensorsplit split hsplit vsplit "
    "unbind narrow select diagonal unfold getitem getattr contiguous detach to float typeas".split()
)

SIZES = ("size", "dim", "ndimension", "numel", "nelement", "get_device", "stride")
BLANK = frozenset("zeros ones full empty rand randn".split())  # zeros_like, x.new_zeros

SUMS = frozenset("add radd iadd sub rsub isub subtract".split())

# Element by element: an affine function of one tensor, if nothing else comes from the images.
AFFINE = SUMS | frozenset(
    "identity dropout mul rmul imul multiply div itruediv truediv truedivide divide neg negative "
    "positive clone contiguous detach to type typeas float double half bfloat16".split()
)
CURVED = frozenset(
    "clamp clip clampmin clampmax max min maximum minimum fmax fmin where maskedfill abs absolute "
    "sign square pow floatpower sqrt rsqrt reciprocal exp exp2 expm1 log log2 log10 log1p erf "
    "erfc sin cos tan atan arctan sinh cosh asinh arcsinh expit logit heaviside gt ge lt le eq ne "
    "greater less greaterequal lessequal logicaland logicalnot logaddexp round floor ceil trunc "
    "frac fmod remainder mod floordiv addcmul addcdiv lerp hypot nantonum sinc copysign".split()
)
REDUCTIONS = frozenset("mean sum var std norm vectornorm amax amin logsumexp prod".split())


AXES = {"unsqueeze": 1, "stack": 1, "squeeze": -1, "select": -1, "unbind": -1}  # more, or fewer
SEVERAL = frozenset("chunk split tensorsplit unbind hsplit vsplit".split())  # tensors

# What passes rounded values on, mixes or normalises them: no activation of its own.
PASSING = VIEWS | frozenset(
    "mean sum avgpool1d avgpool2d avgpool3d adaptiveavgpool1d adaptiveavgpool2d adaptiveavgpool3d "
    "maxpool1d maxpool2d maxpool3d adaptivemaxpool1d adaptivemaxpool2d adaptivemaxpool3d amax amin "
    "cat concat concatenate stack pad zeropad1d zeropad2d constantpad1d constantpad2d "
    "reflectionpad1d reflectionpad2d replicationpad1d replicationpad2d circularpad1d circularpad2d "
    "interpolate upsample upsamplingnearest2d upsamplingbilinear2d pixelshuffle pixelunshuffle "
    "channelshuffle flip roll repeat tile repeatinterleave indexselect stochasticdepth dropblock2d "
    "batchnorminput batchnorm batchnorm1d batchnorm2d batchnorm3d syncbatchnorm evalbatchnorm2d "
    "layernorm groupnorm rmsnorm instancenorm instancenorm1d instancenorm2d instancenorm3d "
    "localresponsenorm".split()
)


def layer(network: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """The layer that a node calls; None if it calls none."""
    return network.get_submodule(str(node.target)) if node.op == "call_module" else None


def torch_class(module: nn.Module) -> type[nn.Module] | None:
    """The class of torch.nn as which a module computes, subclasses that add nothing included."""
    own = {"forward"}.intersection(vars(module))  # put in its place by the user
    for cls in type(module).__mro__:
        if cls.__module__.startswith(("torch.nn.", "torch.ao.nn.")):
            changed = {name for name in own if hasattr(cls, name) and not name.startswith("__")}
            plain = cls is not nn.Module and not issubclass(cls, nn.Sequential)
            return cls if plain and changed <= {"reset_parameters", "extra_repr"} else None
        own |= set(vars(cls))
    return None


def operation(network: fx.GraphModule, node: fx.Node) -> str:
    """What a node does, in one word: `relu` of nn.ReLU, F.relu, torch.relu, x.relu and x.relu_."""
    if node.op == "call_module":
        module = network.get_submodule(str(node.target))
        name = (torch_class(module) or type(module)).__name__
    elif node.op in ("call_function", "call_method"):
        name = getattr(node.target, "__name__", str(node.target))
    else:
        return ""
    return name.replace("_", "").lower()


def is_activation(network: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node calls an activation by its name, in whatever form."""
    return operation(network, node) in ACTIVATIONS


def is_size(node: fx.Node) -> bool:
    """Whether a node is a tensor's shape or device, or a number that was computed from them."""
    if node.op == "call_method":
        return node.target in SIZES
    if node.op != "call_function":
        return False
    if node.target is getattr:
        return node.args[1] in ("shape", "ndim", "dtype", "device")
    numbers = node.all_input_nodes
    own = getattr(node.target, "__module__", "") in ("_operator", "builtins", "math")
    return own and bool(numbers) and all(map(is_size, numbers))


def from_images(network: fx.GraphModule) -> set[fx.Node]:
    """The nodes that depend on the images' values, and not on their shape alone."""
    images: set[fx.Node] = set()
    for node in network.graph.nodes:
        name = operation(network, node)
        blank = name.removeprefix("new").removesuffix("like") in BLANK
        reads = not images.isdisjoint(node.all_input_nodes)
        if node.op == "placeholder" or (reads and not blank and not is_size(node)):
            images.add(node)
    return images


def activations(network: fx.GraphModule) -> list[fx.Node]:
    """The nodes at which an activation ends, in the order in which they run.

    Those that are called by name, wherever they stand; and between two weighted layers any other
    function of one tensor, element by element, that is not affine: `x.clamp(min=0)`, `x * (x > 0)`.
    Of the steps of one function the last: the product of `x * x.sigmoid()`, and not its sigmoid.
    """
    images = from_images(network)
    named = {node for node in images if is_activation(network, node)}
    between = _between_layers(network, images)
    source: dict[fx.Node, fx.Node] = {}  # of which it is a function, element by element
    curved: set[fx.Node] = set()
    steps: list[fx.Node] = []  # that make new values, not on the grid of those that they read
    statistics: set[fx.Node] = set()  # a mean, a deviation from it: of a norm by hand
    for node in (node for node in network.graph.nodes if node in images):
        name = operation(network, node)
        read = [a for a in (*node.args, *node.kwargs.values()) if isinstance(a, fx.Node)]
        inputs = [a for a in read if a in images]
        sources = list({source[i] for i in inputs})
        pair = name in SUMS and curved.isdisjoint(inputs)  # affine, as x + x is
        curves = name in CURVED or (name in AFFINE and not pair and len(inputs) > 1)
        curves |= _divides_by(name, node, images)
        whole = name in ("max", "min") and len(read) < 2  # of all positions
        own = name in AFFINE | CURVED and node in between and not whole
        one = len(sources) == 1 and statistics.isdisjoint(sources)
        pointwise = one and ((node in named and name != "glu") or own)
        if name in REDUCTIONS or (name in AFFINE | CURVED and not statistics.isdisjoint(inputs)):
            statistics.add(node)
        source[node] = sources[0] if pointwise else node
        if node in named or (curves and source[node] is not node):
            steps.append(node)
        if node in steps or (source[node] is not node and not curved.isdisjoint(inputs)):
            curved.add(node)

    def read_by(node: fx.Node) -> set[fx.Node]:
        """The next steps, and nodes of other functions, that read a node's values."""
        found: set[fx.Node] = set()
        for user in images.intersection(node.users):
            inside = source[user] is source[node] and user not in steps
            found |= read_by(user) if inside else {user}
        return found

    ends: set[fx.Node] = set()
    for node in reversed(steps):
        for user in read_by(node):
            own_step = user in steps and source[user] is source[node]
            if not own_step or ({node, user} <= named and user in ends):
                ends.add(node)
    return [node for node in steps if node in ends]


def _divides_by(name: str, node: fx.Node, images: Collection[fx.Node]) -> bool:
    """Whether a node divides by what comes from the images."""
    return "div" in name and isinstance(node.args[-1], fx.Node) and node.args[-1] in images


def _between_layers(network: fx.GraphModule, images: set[fx.Node]) -> set[fx.Node]:
    """The nodes after a convolution or linear layer and before another."""
    kinds = (CONVOLUTION, nn.Linear)
    after: set[fx.Node] = set()
    before: set[fx.Node] = set()
    for node in network.graph.nodes:
        if node in images and not after.isdisjoint(node.all_input_nodes):
            after.add(node)
        if isinstance(layer(network, node), kinds):
            after.add(node)
    for node in reversed(network.graph.nodes):
        if any(user in before or isinstance(layer(network, user), kinds) for user in node.users):
            before.add(node)
    return after & before


def unrounded(network: fx.GraphModule) -> dict[fx.Node, str]:
    """The nodes whose new values reach a weighted layer of a student unrounded, and that layer.

    What passes values on, mixes or normalises them (sums, pooling, norms) is not counted, nor are
    the images. Products of two maps are, as of a map and its gate, a softmax, and whatever else.
    """
    images = from_images(network)
    between = _between_layers(network, images)
    found: dict[fx.Node, str] = {}

    def look(node: fx.Node, reader: str, seen: set[fx.Node]) -> None:
        module, name = layer(network, node), operation(network, node)
        inputs = [i for i in node.all_input_nodes if i in images]
        weighted = isinstance(module, (CONVOLUTION, nn.Linear))
        if node in seen or weighted or node not in between or name == "activationquantizer":
            return
        seen.add(node)
        scaled = name in AFFINE and len(inputs) == 1 and not _divides_by(name, node, inputs)
        if name in PASSING or name in SUMS or scaled:
            for i in inputs:
                look(i, reader, seen)
        else:
            found.setdefault(node, reader)

    for node in network.graph.nodes:
        if isinstance(layer(network, node), (CONVOLUTION, nn.Linear)):
            for i in node.all_input_nodes:
                look(i, str(node.target), set())
    return found
