"""Operators that multiply no matrices: element-wise, reductions, normalisation, pooling, views, copies, indexing."""

NAMES = """
_adaptive_avg_pool2d _batch_norm_no_update _batch_norm_with_update _local_scalar_dense _log_softmax
_native_batch_norm_legit _native_batch_norm_legit_no_training _softmax _to_copy _unique2 _unsafe_view abs
adaptive_max_pool2d add add_ alias aminmax any arange argmax as_strided as_strided_ avg_pool2d bernoulli
bernoulli_ bitwise_and bitwise_or bucketize cat ceil clamp clamp_min clone constant_pad_nd copy_
cudnn_batch_norm cumsum detach detach_ div div_ dropout embedding empty empty_like empty_strided eq equal exp
expand fill_ flatten floor full full_like gather ge gelu gt hardsigmoid hardsigmoid_ hardswish hardswish_
hardtanh hardtanh_ index index_copy index_copy_ index_put index_put_ index_select is_same_size item le
leaky_relu lift_fresh log logical_and logical_not logical_or logsumexp lt masked_fill max max_pool2d
max_pool2d_with_indices maximum mean min minimum miopen_batch_norm mul mul_ native_batch_norm native_dropout
native_group_norm native_layer_norm ne neg new_empty new_empty_strided new_full new_ones new_zeros nonzero
normal_ one_hot ones ones_like permute pixel_shuffle pow rand rand_like randn reciprocal relu relu_ repeat reshape
rms_norm round rsqrt rsub scalar_tensor scatter scatter_ select select_backward set_ sigmoid sigmoid_ sign silu silu_
slice sort split split_with_sizes sqrt squeeze stack std sub sub_ sum t tanh topk transpose tril triu unbind
unfold uniform_ unique_consecutive unique_dim unsqueeze upsample_bilinear2d upsample_nearest2d var var_mean
view where zero_ zeros zeros_like
"""

COST_FREE = frozenset(NAMES.split())
