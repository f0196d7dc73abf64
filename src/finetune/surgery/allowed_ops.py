"""The ops of TensorFlow, listed: which a source may run, and for what reason it may not run the others."""

from __future__ import annotations

# Each allowed op is written out, so that nobody opens the next one by a pattern that fits it too. What these have in
# common: they compute from tensors to tensors and reach no file, no network, no other session and no Python.
_ALLOWED = {
    "values, and what only passes them on": """
        Const Placeholder PlaceholderWithDefault PlaceholderV2 Identity IdentityN NoOp StopGradient
        PreventGradient Snapshot GuaranteeConst CheckNumerics CheckNumericsV2 DeepCopy FakeParam
        OptionalFromValue OptionalGetValue OptionalHasValue OptionalNone ToBool
    """,
    "variables": """
        Variable VariableV2 VarHandleOp ReadVariableOp VarIsInitializedOp IsVariableInitialized Assign
        AssignAdd AssignSub AssignVariableOp AssignAddVariableOp AssignSubVariableOp ResourceGather
        ResourceGatherNd VariableShape TemporaryVariable DestroyTemporaryVariable CountUpTo ResourceCountUpTo
        ScatterAdd ScatterDiv ScatterMax ScatterMin ScatterMul ScatterSub ScatterUpdate ScatterNdAdd
        ScatterNdSub ScatterNdUpdate ScatterNdMax ScatterNdMin ResourceScatterNdMax ResourceScatterNdMin
        ResourceScatterAdd ResourceScatterDiv ResourceScatterMax ResourceScatterMin ResourceScatterMul
        ResourceScatterSub ResourceScatterUpdate ResourceScatterNdAdd ResourceScatterNdSub
        ResourceScatterNdUpdate
    """,
    "arithmetic, element by element": """
        Abs Acos Acosh Add AddN AddV2 Angle ApproximateEqual AccumulateNV2 Asin Asinh Atan Atan2 Atanh
        Bincount BitwiseAnd BitwiseOr BitwiseXor Ceil Complex ComplexAbs Conj Cos Cosh Cross Cumprod Cumsum
        Digamma Div DivNoNan Einsum Equal Erf Erfc Erfinv Exp Expm1 Floor FloorDiv FloorMod Greater
        GreaterEqual Igamma Igammac Imag Inv Invert IsFinite IsInf IsNan LeftShift Less LessEqual Lgamma Log
        Log1p LogicalAnd LogicalNot LogicalOr Maximum Minimum Mod Mul MulNoNan Ndtri Neg NextAfter NotEqual
        Polygamma Pow Real RealDiv Reciprocal RightShift Rint Round Rsqrt Sigmoid Sign Sin Sinh Sqrt Square
        SquaredDifference Sub Tan Tanh TruncateDiv TruncateMod Xdivy Xlog1py Xlogy Zeta BesselI0 BesselI0e
        BesselI1 BesselI1e BesselJ0 BesselJ1 BesselK0 BesselK0e BesselK1 BesselK1e BesselY0 BesselY1 Betainc
        CumulativeLogsumexp Dawsn Expint FresnelCos FresnelSin PopulationCount Spence
    """,
    "reductions and segments": """
        All Any ArgMax ArgMin Max Mean Min Prod Sum EuclideanNorm SegmentMax SegmentMean SegmentMin
        SegmentProd SegmentSum UnsortedSegmentMax UnsortedSegmentMin UnsortedSegmentProd UnsortedSegmentSum
        SparseSegmentMean SparseSegmentSqrtN SparseSegmentSum SparseSegmentMeanWithNumSegments
        SparseSegmentSumWithNumSegments HistogramFixedWidth DenseBincount SegmentMaxV2 SegmentMinV2
        SegmentProdV2 SegmentSumV2 SparseSegmentSqrtNWithNumSegments
    """,
    "matrices": """
        BatchMatMul BatchMatMulV2 BatchMatMulV3 MatMul SparseMatMul SparseTensorDenseMatMul
        BatchMatrixBandPart MatrixBandPart MatrixDiag MatrixDiagV2 MatrixDiagV3 MatrixDiagPart
        MatrixDiagPartV2 MatrixDiagPartV3 MatrixSetDiag MatrixSetDiagV2 MatrixSetDiagV3 Diag DiagPart Cholesky
        MatrixInverse MatrixDeterminant MatrixSolve MatrixTriangularSolve Qr Svd SelfAdjointEigV2
        BandedTriangularSolve BatchCholesky BatchMatrixDeterminant BatchMatrixDiag BatchMatrixDiagPart
        BatchMatrixInverse BatchMatrixSetDiag BatchMatrixSolve BatchMatrixSolveLs BatchMatrixTriangularSolve
        BatchSelfAdjointEig BatchSelfAdjointEigV2 BatchSvd Eig LogMatrixDeterminant Lu MatrixExponential
        MatrixLogarithm MatrixSolveLs MatrixSquareRoot SelfAdjointEig TridiagonalMatMul TridiagonalSolve
    """,
    "shapes, slices and places": """
        BatchToSpace BatchToSpaceND SpaceToBatch SpaceToBatchND SpaceToDepth DepthToSpace Bitcast
        BroadcastArgs BroadcastTo Cast ClipByValue Concat ConcatV2 ConcatOffset EnsureShape ExpandDims
        ExtractImagePatches Fill Gather GatherNd GatherV2 InvertPermutation LinSpace ListDiff MirrorPad OneHot
        OnesLike Pack ParallelConcat Pad PadV2 Range Rank Reshape Reverse ReverseSequence ReverseV2 Roll
        ScatterNd TensorScatterAdd TensorScatterUpdate TensorScatterSub Select SelectV2 Shape ShapeN Size
        Slice Split SplitV SparseToDense Squeeze StridedSlice Tile TopK TopKV2 NthElement Transpose Unique
        UniqueV2 UniqueWithCounts UniqueWithCountsV2 Unpack UnravelIndex Where ZerosLike BroadcastGradientArgs
        Bucketize Empty DynamicPartition DynamicStitch ParallelDynamicStitch LowerBound UpperBound ApproxTopK
        ConjugateTranspose DataFormatDimMap DataFormatVecPermute EditDistance ExtractVolumePatches HostConst
        InplaceAdd InplaceSub InplaceUpdate ResourceStridedSliceAssign ScatterNdNonAliasingAdd
        StridedSliceAssign TensorScatterMax TensorScatterMin TensorStridedSliceUpdate DenseToDenseSetOperation
        DenseToSparseSetOperation SetSize SparseToSparseSetOperation
    """,
    "layers": """
        AvgPool AvgPool3D MaxPool MaxPool3D MaxPoolV2 MaxPoolWithArgmax FractionalAvgPool FractionalMaxPool
        BiasAdd BiasAddV1 Conv2D Conv3D Conv2DBackpropInput Conv3DBackpropInputV2 DepthwiseConv2dNative
        Dilation2D Elu Relu Relu6 Selu LeakyRelu Softmax LogSoftmax Softplus Softsign L2Loss LRN
        FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3 InTopK InTopKV2 SoftmaxCrossEntropyWithLogits
        SparseSoftmaxCrossEntropyWithLogits CTCLoss CTCLossV2 CTCGreedyDecoder CTCBeamSearchDecoder
        LSTMBlockCell BlockLSTM BlockLSTMV2 GRUBlockCell CudnnRNN CudnnRNNV2 CudnnRNNV3
        CudnnRNNCanonicalToParams CudnnRNNParamsSize CudnnRNNParamsToCanonical
        BatchNormWithGlobalNormalization Conv CudnnRNNCanonicalToParamsV2 CudnnRNNParamsToCanonicalV2
        FusedPadConv2D FusedResizeAndPadConv2D DepthwiseConv2dNativeBackpropInput Conv2DBackpropInputV2
        Conv3DBackpropInput
    """,
    "numbers rounded as if they were quantised": """
        QuantizeAndDequantizeV2 FakeQuantWithMinMaxArgs FakeQuantWithMinMaxVars
        FakeQuantWithMinMaxVarsPerChannel QuantizeAndDequantize QuantizeAndDequantizeV3
        QuantizeAndDequantizeV4
    """,
    "images, sound and spectra": """
        AdjustContrast AdjustContrastv2 AdjustHue AdjustSaturation CropAndResize HSVToRGB RGBToHSV
        NonMaxSuppression NonMaxSuppressionV2 NonMaxSuppressionV3 NonMaxSuppressionV4 NonMaxSuppressionV5
        CombinedNonMaxSuppression ResizeArea ResizeBicubic ResizeBilinear ResizeNearestNeighbor
        ImageProjectiveTransformV2 ImageProjectiveTransformV3 ExtractGlimpse ExtractGlimpseV2 AudioSpectrogram
        Mfcc FFT FFT2D FFT3D IFFT IFFT2D IFFT3D RFFT RFFT2D IRFFT IRFFT2D BatchFFT BatchFFT2D BatchFFT3D
        BatchIFFT BatchIFFT2D BatchIFFT3D DrawBoundingBoxes DrawBoundingBoxesV2 FFTND IFFTND IRFFT3D IRFFTND
        NonMaxSuppressionWithOverlaps RFFT3D RFFTND RandomCrop SampleDistortedBoundingBox
        SampleDistortedBoundingBoxV2 ScaleAndTranslate StatelessSampleDistortedBoundingBox
    """,
    "random numbers": """
        RandomUniform RandomUniformInt RandomStandardNormal TruncatedNormal RandomShuffle Multinomial
        RandomGamma RandomPoissonV2 ParameterizedTruncatedNormal StatelessRandomUniform
        StatelessRandomUniformV2 StatelessRandomNormal StatelessRandomNormalV2 StatelessTruncatedNormal
        StatelessTruncatedNormalV2 StatelessMultinomial RandomIndexShuffle RandomPoisson RngReadAndSkip
        RngSkip StatefulRandomBinomial StatefulStandardNormal StatefulStandardNormalV2 StatefulTruncatedNormal
        StatefulUniform StatefulUniformFullInt StatefulUniformInt StatelessParameterizedTruncatedNormal
        StatelessRandomBinomial StatelessRandomGammaV2 StatelessRandomGammaV3 StatelessRandomGetAlg
        StatelessRandomGetKeyCounter StatelessRandomGetKeyCounterAlg StatelessRandomPoisson
        StatelessRandomUniformFullInt StatelessRandomUniformFullIntV2 StatelessRandomUniformInt
        StatelessRandomUniformIntV2 StatelessShuffle
    """,
    "branches and loops of TensorFlow 1": """
        Switch Merge RefSwitch RefMerge RefIdentity RefEnter RefExit RefNextIteration Enter Exit NextIteration
        LoopCond ControlTrigger RefSelect
    """,
    "arrays, lists and stacks of tensors": """
        TensorArray TensorArrayClose TensorArrayCloseV2 TensorArrayCloseV3 TensorArrayConcat
        TensorArrayConcatV2 TensorArrayConcatV3 TensorArrayGather TensorArrayGatherV2 TensorArrayGatherV3
        TensorArrayGrad TensorArrayGradV2 TensorArrayGradV3 TensorArrayGradWithShape TensorArrayPack
        TensorArrayRead TensorArrayReadV2 TensorArrayReadV3 TensorArrayScatter TensorArrayScatterV2
        TensorArrayScatterV3 TensorArraySize TensorArraySizeV2 TensorArraySizeV3 TensorArraySplit
        TensorArraySplitV2 TensorArraySplitV3 TensorArrayUnpack TensorArrayV2 TensorArrayV3 TensorArrayWrite
        TensorArrayWriteV2 TensorArrayWriteV3 TensorListConcat TensorListConcatLists TensorListConcatV2
        TensorListElementShape TensorListFromTensor TensorListGather TensorListGetItem TensorListLength
        TensorListPopBack TensorListPushBack TensorListPushBackBatch TensorListReserve TensorListResize
        TensorListScatter TensorListScatterIntoExistingList TensorListScatterV2 TensorListSetItem
        TensorListSplit TensorListStack EmptyTensorList EmptyTensorMap TensorMapErase TensorMapHasKey
        TensorMapInsert TensorMapLookup TensorMapSize TensorMapStackKeys Stack StackClose StackCloseV2
        StackPop StackPopV2 StackPush StackPushV2 StackV2
    """,
    "sparse and ragged tensors": """
        SparseAdd SparseConcat SparseReduceSum SparseReshape SparseSlice SparseSoftmax SparseReorder
        SparseFillEmptyRows SparseDenseCwiseAdd SparseDenseCwiseMul SparseDenseCwiseDiv SparseBincount
        SparseCountSparseOutput SparseCross SparseCrossHashed SparseCrossV2 SparseReduceMax
        SparseReduceMaxSparse SparseReduceSumSparse SparseSparseMaximum SparseSparseMinimum SparseSplit
        SparseTensorDenseAdd DenseCountSparseOutput RaggedBincount RaggedCountSparseOutput RaggedCross
        RaggedFillEmptyRows RaggedGather RaggedRange RaggedTensorToSparse RaggedTensorToTensor
    """,
    "texts; none of these opens what a text names": """
        AsString Fingerprint ReduceJoin RegexFullMatch RegexReplace StaticRegexFullMatch StaticRegexReplace
        StringFormat StringJoin StringLength StringLower StringNGrams StringSplit StringSplitV2 StringStrip
        StringToHashBucket StringToHashBucketFast StringToHashBucketStrong StringToNumber StringUpper Substr
        UnicodeDecode UnicodeDecodeWithOffsets UnicodeEncode UnicodeScript UnicodeTranscode
        UnsortedSegmentJoin
    """,
    "tables whose content is in the graph": """
        HashTable HashTableV2 InitializeTable InitializeTableV2 LookupTableFind LookupTableFindV2
        LookupTableImport LookupTableImportV2 LookupTableSize LookupTableSizeV2
    """,
    "calls of functions, whose bodies are checked too": """
        If StatelessIf While StatelessWhile Case StatelessCase PartitionedCall StatefulPartitionedCall For
        MapDefun
    """,
    "gradients, where a model computes some itself": """
        AvgPool3DGrad AvgPoolGrad BatchCholeskyGrad BatchNormWithGlobalNormalizationGrad BiasAddGrad
        BlockLSTMGrad BlockLSTMGradV2 CholeskyGrad EluGrad FractionalAvgPoolGrad FractionalMaxPoolGrad
        FusedBatchNormGrad FusedBatchNormGradV2 GRUBlockCellGrad InvGrad LRNGrad LSTMBlockCellGrad
        LeakyReluGrad MaxPool3DGrad MaxPool3DGradGrad MaxPoolGrad MaxPoolGradGrad MaxPoolGradGradV2
        MaxPoolGradV2 MirrorPadGrad QuantizeAndDequantizeV4Grad RaggedFillEmptyRowsGrad RandomGammaGrad
        ReciprocalGrad Relu6Grad ReluGrad ResizeBicubicGrad ResizeBilinearGrad ResizeNearestNeighborGrad
        RsqrtGrad ScaleAndTranslateGrad SeluGrad SigmoidGrad SoftplusGrad SoftsignGrad SparseAddGrad
        SparseFillEmptyRowsGrad SparseSegmentMeanGrad SparseSegmentMeanGradV2 SparseSegmentSqrtNGrad
        SparseSegmentSqrtNGradV2 SparseSegmentSumGrad SparseSegmentSumGradV2 SparseSliceGrad SqrtGrad
        StridedSliceGrad TanhGrad TileGrad Conv2DBackpropFilter Conv2DBackpropFilterV2 Conv3DBackpropFilter
        Conv3DBackpropFilterV2 CropAndResizeGradBoxes CropAndResizeGradImage CudnnRNNBackprop
        CudnnRNNBackpropV2 CudnnRNNBackpropV3 DepthwiseConv2dNativeBackpropFilter Dilation2DBackpropFilter
        Dilation2DBackpropInput FakeQuantWithMinMaxArgsGradient FakeQuantWithMinMaxVarsGradient
        FakeQuantWithMinMaxVarsPerChannelGradient FusedBatchNormGradV3 IgammaGradA MaxPoolGradGradWithArgmax
        MaxPoolGradWithArgmax
    """,
}

ALLOWED = frozenset(op for ops in _ALLOWED.values() for op in ops.split())

# What an op does -> such ops; `*` stands for any text. These lists give reasons, they do not decide: an op is refused
# because it is not allowed. The first line that fits is the reason.
_REFUSED = {
    "runs Python code of whoever trained the model": """
        EagerPyFunc PyFunc PyFuncStateless
    """,
    "reads files": """
        CSVDataset CSVDatasetV2 CacheDataset CacheDatasetV2 DTensorRestoreV2 DecodeProtoV2 EncodeProto
        ExperimentalCSVDataset ExperimentalLMDBDataset ExperimentalMatchingFilesDataset ExperimentalSqlDataset
        FixedLengthRecordDataset FixedLengthRecordDatasetV2 FixedLengthRecordReader FixedLengthRecordReaderV2
        FixedUnigramCandidateSampler GenerateVocabRemapping IdentityReader IdentityReaderV2 ImmutableConst
        InitializeTableFromTextFile InitializeTableFromTextFileV2 LMDBDataset LMDBReader
        ListSnapshotChunksDataset LoadAndRemapMatrix LoadDataset MatchingFiles MatchingFilesDataset ReadFile
        RecordInput Restore RestoreSlice RestoreV2 Skipgram SnapshotChunkDataset SnapshotDataset
        SnapshotDatasetReader SnapshotDatasetV2 SnapshotNestedDatasetReader SparseTensorSliceDataset
        SqlDataset TFRecordDataset TFRecordDatasetV2 TFRecordReader TFRecordReaderV2 TensorSliceDataset
        TextLineDataset TextLineReader TextLineReaderV2 WholeFileReader WholeFileReaderV2
    """,
    "writes files": """
        CalibrationStatisticsSaver CloseSummaryWriter Copy CopyHost CreateSummaryDbWriter
        CreateSummaryFileWriter DatasetToTFRecord DebugIdentity DebugIdentityV2 DebugIdentityV3 DebugNanCount
        DebugNumericSummary DebugNumericSummaryV2 DistributedSave DumpTensor ExperimentalDatasetToTFRecord
        FileSystemSetConfiguration FlushSummaryWriter ImportEvent MergeV2Checkpoints Save SaveDataset
        SaveDatasetV2 SaveSlices SaveV2 StatsAggregatorSetSummaryWriter StoreMinibatchStatisticsInFdo
        SummaryWriter WriteAudioSummary WriteFile WriteGraphSummary WriteHistogramSummary WriteImageSummary
        WriteRawProtoSummary WriteScalarSummary WriteSummary
    """,
    "talks to other machines or processes": """
        Collective* DTensor* DataService* DeleteRpcFutureResource Nccl* _Nccl* Recv Send _Recv _Send _Host*
        RegisterDataset* RemoteCall Rpc* WorkerHeartbeat Infeed* Outfeed* Prelinearize PrelinearizeTuple
        AllToAll CrossReplicaSum CopyToMesh* Relayout RelayoutLike SyncDevice
    """,
    "runs on a TPU only": """
        *TPU* *Tpu* AssignVariableXlaConcatND ReadVariableXlaSplitND ComputeBatchSize ComputeDedup*
        ConvertTo*Coo* KthOrderStatistic GetMinibatch* GetStatsFromListOf* GlobalIterId MergeDedupData
        SortListOfSparseCore* SplitDedupData UpdateTaskIdAndGlobalCoreArray MakeUnique TopKUnique
        TopKWithUnique StochasticCastToInt
    """,
    "runs a program that is hidden inside a value or compiled for one machine": """
        DatasetFromGraph DatasetToGraph DatasetToGraphV2 DeserializeIterator MlirPassthroughOp OneShotIterator
        SymbolicGradient Xla* _Xla* Risc* DatasetToSingleElement CompositeTensorVariantFromComponents
        CompositeTensorVariantToComponents
    """,
    "writes to the terminal or to a file": """
        Assert Print PrintV2
    """,
    "stops, delays or looks at the process": """
        Abort SleepOp SleepIdentityOp Timestamp GraphDefVersion DeviceIndex GetDeadline IsTensorFloat32Enabled
        CheckPinned
    """,
    "reaches into what belongs to other sessions": """
        Batch BatchFunction ConsumeMutexLock DeleteSessionTensor DestroyResourceOp DisableCopyOnRead
        GetSessionHandle GetSessionHandleV2 GetSessionTensor IsResourceHandleRefCounting
        IteratorFromStringHandle IteratorFromStringHandleV2 MakeWeakResourceHandle
        MultiDeviceIteratorFromStringHandle Mutex* StubResourceHandleOp Unbatch UnbatchGrad
    """,
    "decodes or encodes a format in which a few bytes can take any memory": """
        Decode* Encode* Parse* ExtractJpegShape SerializeTensor SerializeSparse SerializeManySparse
        DeserializeSparse DeserializeManySparse UncompressElement CompressElement RaggedTensorFromVariant
        RaggedTensorToVariant RaggedTensorToVariantGradient
    """,
    "belongs to an input pipeline": """
        *Dataset* *Iterator* *Queue* Reader* Stage* Unstage OrderedMap* MapClear MapIncompleteSize MapPeek
        MapSize MapStage MapUnstage* Barrier* AddSparseToTensorsMap AddManySparseToTensorsMap
        TakeManySparseFromTensorsMap AnonymousMemoryCache AnonymousRandomSeedGenerator AnonymousSeedGenerator
        DeleteMemoryCache DeleteRandomSeedGenerator DeleteSeedGenerator Dummy* ExperimentalThreadPoolHandle
        ThreadPoolHandle GetElementAtIndex GetOptions WindowOp ShardedFilename ShardedFilespec
    """,
    "belongs to logging": """
        *Summary *SummaryV2 *StatsAggregator* DebugGradient* CustomAggregator
    """,
    "belongs to training": """
        *Apply* *Accumulator* Sdca* NegTrain *CandidateSampler ComputeAccidentalHits KMC2ChainInitialization
        KmeansPlusPlusInitialization NearestNeighbors SparseMatrix* *CSRSparseMatrix*
        GenerateBoundingBoxProposals SobolSample IsotonicRegression AudioMicrofrontend NonDeterministicInts
    """,
    "belongs to boosted trees, which are no network": """
        BoostedTrees* IsBoostedTrees*
    """,
    "keeps a table that changes while it runs": """
        AnonymousHashTable AnonymousMutable* Mutable* LookupTableExport* LookupTableInsert*
        LookupTableRemoveV2
    """,
    "computes with quantised numbers": """
        Quantized* QuantizeV2 QuantizeDownAndShrinkRange Dequantize Requant* Uniform*
    """,
    "is made by TensorFlow itself and stands in no file": """
        _*
    """,
    "is one of TensorFlow's own tests": """
        A Attr AttrBool AttrBoolList AttrDefault AttrEmptyListDefault AttrEnum AttrEnumList AttrFloat
        AttrListDefault AttrListMin AttrListTypeDefault AttrMin AttrPartialShape AttrPartialShapeList
        AttrShape AttrShapeList AttrTypeDefault B Binary ComplexStruct ConstructionFails CopyOp DefaultAttrs
        DevicePlacementOp DtypeWithDefaultOp Fact FiveFloatOutputs FloatInput FloatOutput
        FloatOutputStringOutput Foo1 Foo2 Foo3 FuncAttr FuncListAttr InPolymorphicTwice Int64Output IntAttr
        IntInput IntInputFloatInput IntInputIntOutput IntOutput IntOutputFloatOutput KernelLabel
        KernelLabelRequired ListInput ListOutput MixedStruct NInPolymorphicTwice NInTwice NInTwoTypeVariables
        NIntsIn NIntsOut NIntsOutDefault NPolymorphicIn NPolymorphicOut NPolymorphicOutDefault
        NPolymorphicRestrictIn NPolymorphicRestrictOut Namespace>TestStringOutput None Old OpWithDefaultAttr
        OpWithFutureDefaultAttr OutT OutTypeList OutTypeListRestrict Polymorphic PolymorphicDefaultOut
        PolymorphicOut RefIn RefInputFloatInput RefInputFloatInputIntOutput RefInputIntInput RefOut RefOutput
        RefOutputFloatOutput RequiresOlderGraphVersion ReservedAttr ReservedInput ResourceCreateOp
        ResourceInitializedOp ResourceUsingOp Restrict Simple SimpleStruct StringListAttr TestAttr
        TestStringOutput TwoFloatInputs TwoFloatInputsFloatOutput TwoFloatInputsIntOutput TwoFloatOutputs
        TwoIntInputs TwoIntOutputs TwoRefsIn TypeList TypeListRestrict TypeListTwice Unary
    """,
}

REFUSED = {reason: tuple(ops.split()) for reason, ops in _REFUSED.items()}
