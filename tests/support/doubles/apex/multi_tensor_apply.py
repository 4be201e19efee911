"""Hands lists of tensors to an op with the size of the chunks that it works in."""


def multi_tensor_applier(op, noop_flag_buffer, tensor_lists, *args):
    return op(2048 * 32, noop_flag_buffer, tensor_lists, *args)
