"""What TensorFlow calls the outputs of those allowed ops that have several.

Inside a function an input is `node:output_arg:index`, in a graph it is `node:port`. Most files define only the ops
that stand outside of functions, so these definitions are written down here; an allowed op that is not among them has
one output argument. A test compares this with the installed TensorFlow.
"""

from __future__ import annotations

# The output arguments in their order -> the ops that have them; `name*attr` is a list that is as long as `attr` says.
_OUTPUTS = {
    "a_val_grad b_val_grad": "SparseAddGrad",
    "backprops_wrt_input backprop_wrt_min backprop_wrt_max": """
        FakeQuantWithMinMaxVarsGradient FakeQuantWithMinMaxVarsPerChannelGradient
    """,
    "begin size bboxes": "SampleDistortedBoundingBox SampleDistortedBoundingBoxV2 StatelessSampleDistortedBoundingBox",
    "cs_prev_grad dicfo wci_grad wcf_grad wco_grad": "LSTMBlockCellGrad",
    "d_values d_default_value": "RaggedFillEmptyRowsGrad SparseFillEmptyRowsGrad",
    "d_x d_h_prev d_c_bar d_r_bar_u_bar": "GRUBlockCellGrad",
    "decoded_indices decoded_values decoded_shape log_probability": "CTCGreedyDecoder",
    "decoded_indices*top_paths decoded_values*top_paths decoded_shape*top_paths log_probability": """
        CTCBeamSearchDecoder
    """,
    "dx dm dv db dg": "BatchNormWithGlobalNormalizationGrad",
    "e v": "BatchSelfAdjointEigV2 Eig SelfAdjointEigV2",
    "grad_handle flow_out": "TensorArrayGradV3 TensorArrayGradWithShape",
    "handle flow": "TensorArrayV3",
    "i cs f o ci co h": "BlockLSTM BlockLSTMV2 LSTMBlockCell",
    "indices values shape": "StringSplit StringSplitV2",
    "input_backprop input_h_backprop input_c_backprop params_backprop": """
        CudnnRNNBackprop CudnnRNNBackpropV2 CudnnRNNBackpropV3
    """,
    "input_backprop input_min_backprop input_max_backprop": "QuantizeAndDequantizeV4Grad",
    "key counter": "StatelessRandomGetKeyCounter",
    "key counter alg": "StatelessRandomGetKeyCounterAlg",
    "loss backprop": "SoftmaxCrossEntropyWithLogits SparseSoftmaxCrossEntropyWithLogits",
    "loss gradient": "CTCLoss CTCLossV2",
    "lu p": "Lu",
    "ngrams ngrams_splits": "StringNGrams",
    "nmsed_boxes nmsed_scores nmsed_classes valid_detections": "CombinedNonMaxSuppression",
    "out idx": "ListDiff",
    "output argmax": "MaxPoolWithArgmax",
    "output output_h output_c reserve_space": "CudnnRNN",
    "output output_h output_c reserve_space host_reserved": "CudnnRNNV2 CudnnRNNV3",
    "output row_pooling_sequence col_pooling_sequence": "FractionalAvgPool FractionalMaxPool",
    "output sorted_unique_indices": "SparseSegmentMeanGradV2 SparseSegmentSqrtNGradV2 SparseSegmentSumGradV2",
    "output value_index": "Merge RefMerge",
    "output_false output_true": "RefSwitch Switch",
    "output_handle tensor": "TensorListPopBack",
    "output_indices output_shape": "SparseReshape",
    "output_indices output_values": "SparseReorder SparseSparseMaximum SparseSparseMinimum",
    "output_indices output_values empty_row_indicator reverse_index_map": "SparseFillEmptyRows",
    "output_indices output_values output_dense_shape": """
        DenseCountSparseOutput RaggedCountSparseOutput SparseCountSparseOutput
    """,
    "output_indices output_values output_shape": """
        SparseConcat SparseCross SparseCrossHashed SparseCrossV2 SparseReduceMaxSparse SparseReduceSumSparse
        SparseSlice
    """,
    "output_indices*num_split output_values*num_split output_shape*num_split": "SparseSplit",
    "output_nested_splits*OUTPUT_RAGGED_RANK output_dense_values": "RaggedGather",
    "output_value_rowids output_values empty_row_indicator reverse_index_map": "RaggedFillEmptyRows",
    "output_values output_row_splits": "RaggedCross",
    "q r": "Qr",
    "r u c h": "GRUBlockCell",
    "r0 r1": "BroadcastGradientArgs",
    "result_indices result_values result_shape": """
        DenseToDenseSetOperation DenseToSparseSetOperation SparseToSparseSetOperation
    """,
    "row_splits char_values": "UnicodeDecode",
    "row_splits char_values char_to_byte_starts": "UnicodeDecodeWithOffsets",
    "rt_nested_splits rt_dense_values": "RaggedRange",
    "s u v": "BatchSvd Svd",
    "selected_indices selected_scores valid_outputs": "NonMaxSuppressionV5",
    "selected_indices valid_outputs": "NonMaxSuppressionV4",
    "sign log_abs_determinant": "LogMatrixDeterminant",
    "sparse_indices sparse_values sparse_dense_shape": "RaggedTensorToSparse",
    "sum_indices sum_values sum_shape": "SparseAdd",
    "tensor lengths": "TensorListConcat TensorListConcatV2",
    "value lengths": "TensorArrayConcat TensorArrayConcatV2 TensorArrayConcatV3",
    "values indices": "ApproxTopK TopK TopKV2",
    "weights*num_params biases*num_params": "CudnnRNNParamsToCanonical",
    "weights*num_params_weights biases*num_params_biases": "CudnnRNNParamsToCanonicalV2",
    "x_backprop scale_backprop offset_backprop reserve_space_3 reserve_space_4": """
        FusedBatchNormGrad FusedBatchNormGradV2
    """,
    "x_backprop scale_backprop offset_backprop reserve_space_4 reserve_space_5": "FusedBatchNormGradV3",
    "x_grad cs_prev_grad h_prev_grad w_grad wci_grad wcf_grad wco_grad b_grad": "BlockLSTMGrad BlockLSTMGradV2",
    "y batch_mean batch_variance reserve_space_1 reserve_space_2": "FusedBatchNorm FusedBatchNormV2",
    "y batch_mean batch_variance reserve_space_1 reserve_space_2 reserve_space_3": "FusedBatchNormV3",
    "y idx": "Unique UniqueV2",
    "y idx count": "UniqueWithCounts UniqueWithCountsV2",
}

OUTPUT_ARGS = {op: tuple(arguments.split()) for arguments, ops in _OUTPUTS.items() for op in ops.split()}
