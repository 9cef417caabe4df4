"""Which test repeats which recorded tensors: every tensor of every file under tests/data has one row, first match.

``same`` means equal bit for bit, a zero's sign apart; ``but`` the same with the exceptions that the test names one by one (docs/peers.md
lists them as findings); ``near`` within the tolerance that the test states; ``input`` what the programs were given.
Run ``python -m tests.peers.ledger`` to write the table into docs/peers.md.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "peers.md"
START, END = "<!-- ledger -->", "<!-- end of ledger -->"


@dataclass(frozen=True)
class Row:
    """Tensors of a file whose names match a pattern, the tests that repeat them, and how equal."""

    file: str
    pattern: str
    tests: str
    result: Literal["same", "but", "near", "input"]

    def matches(self, name: str) -> bool:
        return re.fullmatch(self.pattern, name) is not None


CAST, HALF, BLOCK, MICRO = "formats/test_format_peers", "formats/test_half_casts", "core/test_blocks", "core/test_microxcaling"
BNB, LBNB, ELEM, SCHEME = (
    "methods/test_bitsandbytes_peers",
    "layout/test_bitsandbytes",
    "methods/test_peer_elements",
    "methods/test_peer_schemes",
)
RTN, TORCH, CT, CTF = "methods/test_rtn_peers", "methods/test_peer_torch", "layout/test_compressed_tensors", "layout/test_compressed_floats"
GPTQ, TERNARY, HQQ, OFFSET = "methods/test_gptq_peers", "methods/test_gptq_ternary", "methods/test_hqq", "methods/test_offset"
LGPTQ, SCALES, STACKED, GGUF = "layout/test_gptq", "layout/test_peer_scales", "layout/test_stacked_rows", "layout/test_gguf_blocks"
NONFINITE, SEARCHES = "layout/test_gguf_nonfinite", "layout/test_gguf_searches"

LEDGER: tuple[Row, ...] = (
    Row("formats/gfloat_round", "input", CAST, "input"),
    Row("formats/gfloat_round", ".*", f"{CAST}::test_roundings_are_those_of_gfloat", "same"),
    Row("formats/half_casts_ml_dtypes", "input|f16_all_finite", HALF, "input"),
    Row("formats/half_casts_ml_dtypes", r".*\.cast_h", f"{HALF}::test_every_finite_float16", "same"),
    Row("formats/half_casts_ml_dtypes", r".*\.from_int", f"{HALF}::test_integers_wrap_in_ml_dtypes", "same"),
    Row("formats/half_casts_torch", r"cast\.(input|f16_all_finite)", HALF, "input"),
    Row("formats/half_casts_torch", r"cast_h\..*", f"{HALF}::test_every_finite_float16", "same"),
    Row("formats/half_casts_torch", r"cast\.float16", f"{HALF}::test_float16_casts_of_torch", "same"),
    Row("formats/microxcaling_elements", "input|subnormal", MICRO, "input"),
    Row("formats/microxcaling_elements", r"elem\..*", f"{MICRO}::test_elements_without_a_shared_scale", "but"),
    Row("formats/microxcaling_elements", r".*\.flushsub", f"{MICRO}::test_flushed_blocks", "same"),
    Row("formats/microxcaling_mx", "input|edge|subnormal", BLOCK, "input"),
    Row("formats/microxcaling_mx", r"int4\..*", f"{MICRO}::test_four_bit_integers", "but"),
    Row("formats/microxcaling_mx", r".*\.(nearest|floor)\..*", f"{MICRO}::test_roundings", "but"),
    Row("formats/microxcaling_mx", r".*\.even\..*", f"{BLOCK}::test_mx_is_that_of_microxcaling", "but"),
    Row("formats/ml_dtypes_casts", "input|.*_mid", CAST, "input"),
    Row("formats/ml_dtypes_casts", r".*\.decode", f"{CAST}::test_tables_are_those_of_ml_dtypes", "same"),
    Row("formats/ml_dtypes_casts", r".*\.f64_mid_cast", f"{CAST}::test_float64_casts_of_ml_dtypes_round_twice", "but"),
    Row("formats/ml_dtypes_casts", r".*cast", f"{CAST}::test_float32_casts_are_those_of_ml_dtypes", "but"),
    Row("formats/ml_dtypes_nonfinite", "input", CAST, "input"),
    Row("formats/ml_dtypes_nonfinite", "bfloat16.cast", f"{HALF}::test_special_numbers_of_ml_dtypes_in_bfloat16", "same"),
    Row("formats/ml_dtypes_nonfinite", ".*", f"{CAST}::test_special_numbers_are_those_of_ml_dtypes", "but"),
    Row("formats/modelopt_fp4", "input", BLOCK, "input"),
    Row("formats/modelopt_fp4", r"nvfp4\..*", f"{BLOCK}::test_nvfp4_is_that_of_modelopt", "same"),
    Row("formats/modelopt_fp4", r"mxfp4\..*", f"{BLOCK}::test_mxfp4_of_modelopt_is_rceil_with_ties_towards_zero", "but"),
    Row("formats/torch_float8", "cast.input", CAST, "input"),
    Row("formats/torch_float8", r"decode\.float8_e8m0fnu", f"{HALF}::test_table_of_torch_e8m0", "same"),
    Row("formats/torch_float8", r"decode\..*", f"{HALF}::test_tables_of_torch", "same"),
    Row("formats/torch_float8", r"cast\.float8_e8m0fnu", f"{CAST}::test_torch_casts_magnitudes_to_e8m0", "but"),
    Row("formats/torch_float8", r"cast\..*", f"{CAST}::test_casts_are_those_of_torch", "same"),
    Row("formats/torchao_mx", "input|edge|subnormal", BLOCK, "input"),
    Row("formats/torchao_mx", r"nvfp4\..*", f"{BLOCK}::test_nvfp4_is_that_of_torchao", "same"),
    Row("formats/torchao_mx", ".*", f"{BLOCK}::test_mx_is_that_of_torchao", "but"),
    Row("layout/awq_interleaved", ".*", "layout/test_awq::test_interleaved", "same"),
    Row("layout/bitsandbytes", r"(odd\.)?input|int8\.A_f16|llmint8\.[AB]", BNB, "input"),
    Row("layout/bitsandbytes", r"code\.create_.*", f"{BNB}::test_tables_that_no_format_here_is", "near"),
    Row("layout/bitsandbytes", r"code\..*", f"{CAST}::test_tables_are_those_of_bitsandbytes", "same"),
    Row("layout/bitsandbytes", r".*\.(bfloat16|float16)\..*", f"{BNB}::test_half_inputs", "same"),
    Row("layout/bitsandbytes", r".*\.double\..*", f"{LBNB}::test_our_quantization_is_theirs", "same"),
    Row("layout/bitsandbytes", r"odd\..*", f"{LBNB}::test_an_odd_length_with_a_ragged_block", "same"),
    Row("layout/bitsandbytes", r"(nf4|fp4)\..*", f"{LBNB}::test_our_quantization_is_theirs", "same"),
    Row("layout/bitsandbytes", r"blockwise\..*", f"{BNB}::test_blocks_of_8_bits", "but"),
    Row("layout/bitsandbytes", r"int8\..*", f"{BNB}::test_llm_int8_rows", "same"),
    Row("layout/bitsandbytes", r"llmint8\..*", f"{BNB}::test_llm_int8_products", "but"),
    Row("layout/bitsandbytes_nonfinite", r"(nf|sub)\.input", BNB, "input"),
    Row("layout/bitsandbytes_nonfinite", r"nf\.blockwise\..*", f"{BNB}::test_special_numbers_in_8_bit_blocks", "but"),
    Row("layout/bitsandbytes_nonfinite", r"nf\..*", f"{BNB}::test_special_numbers_in_4_bit_blocks", "but"),
    Row("layout/bitsandbytes_nonfinite", r"sub\.blockwise\..*", f"{BNB}::test_subnormal_blocks_of_8_bits", "but"),
    Row("layout/bitsandbytes_nonfinite", r"sub\..*", f"{BNB}::test_subnormal_blocks_of_4_bits", "but"),
    Row("layout/compressed_tensors", r"input|edge|cast_fp4\.x|pack\d\.values", CT, "input"),
    Row("layout/compressed_tensors", r"cast_fp4\.y", f"{CAST}::test_every_number_of_a_grid_to_e2m1_is_that_of_compressed_tensors", "same"),
    Row("layout/compressed_tensors", r"pack\d\.dim[01]", "layout/test_bits::test_compressed_tensors_packs_alike", "same"),
    Row(
        "layout/compressed_tensors",
        r"(?!.*asym).*\.zero",
        f"{SCALES}::test_symmetric_files_of_compressed_tensors_have_zero_points_of_0",
        "same",
    ),
    Row("layout/compressed_tensors", r"int\d.*\.(packed|zero_packed)", f"{CT}::test_pack_quantized", "same"),
    Row("layout/compressed_tensors", r"int\d.*\.(scale|zero|q|deq)", f"{SCHEME}::test_compressed_tensors", "same"),
    Row("layout/compressed_tensors", r"mxfp8\..*\.(scale|deq)", f"{SCALES}::test_its_mx_scales_are_what_their_bytes_stand_for", "same"),
    Row("layout/compressed_tensors", r"mxfp8\..*", f"{BLOCK}::test_mxfp8_of_compressed_tensors_leaves_the_top_number_unused", "but"),
    Row("layout/compressed_tensors", r"mxfp[46]\..*\.scale", f"{SCALES}::test_its_mx_scales_are_what_their_bytes_stand_for", "same"),
    Row("layout/compressed_tensors", r"fp8\..*|.*\.packed", f"{CTF}::test_their_arrays", "same"),
    Row("layout/compressed_tensors", r"(mxfp[46]|nvfp4)\..*", f"{BLOCK}::test_fp4_blocks_are_those_of_compressed_tensors", "same"),
    Row("layout/ggml_products", ".*", "layout/test_gguf_products", "near"),
    Row("layout/ggml_products_of_tables", ".*", "layout/test_gguf_products::test_products_are_ggmls", "near"),
    Row("layout/gguf", "input|input_subnormal", GGUF, "input"),
    Row("layout/gguf", r"ggml\.Q\d_K\.sub_q", f"{GGUF}::test_subnormal_rows_of_the_k_types", "same"),
    Row("layout/gguf", r"gguf\.(Q4_0|Q5_0|MXFP4)\.sub_q", f"{GGUF}::test_rows_whose_reciprocal_overflows_are_zeros", "but"),
    Row("layout/gguf", r"gguf\..*\.sub_q", f"{GGUF}::test_subnormal_rows_where_a_reference_defines_them", "same"),
    Row("layout/gguf", r".*deq", f"{GGUF}::test_numbers_are_the_peers_to_the_byte", "same"),
    Row("layout/gguf", r".*\.rand_q", f"{GGUF}::test_packing_the_fields_gives_the_bytes_back", "same"),
    Row("layout/gguf", r"ggml\..*\.imat_q", f"{SEARCHES}::test_ggml_weighs_to_the_same_bytes", "same"),
    Row("layout/gguf", r"ggml\.(IQ|NV).*\.sub_q", f"{SEARCHES}::test_subnormal_rows_of_the_searches", "same"),
    Row("layout/gguf", r"ggml\.(IQ|NV).*\.q", f"{SEARCHES}::test_ggml_searches_to_the_same_bytes", "same"),
    Row("layout/gguf", r"gguf\..*\.q", f"{GGUF}::test_gguf_quantizes_to_the_same_bytes", "same"),
    Row("layout/gguf", r"ggml\..*\.q", f"{GGUF}::test_ggml_quantizes_to_the_same_bytes", "but"),
    Row("layout/ggml_searches", r"imatrix|input|importance|sparse|opposite.*|.*\.tiny(_importance)?", SEARCHES, "input"),
    Row("layout/ggml_searches", r".*\.opposite_q", f"{SEARCHES}::test_scales_that_come_out_negative", "same"),
    Row("layout/ggml_searches", r".*\.tiny_q", f"{SEARCHES}::test_blocks_whose_scale_underflows", "same"),
    Row("layout/ggml_searches", r".*q", f"{SEARCHES}::test_rows_of_two_blocks_and_of_every_kind", "same"),
    Row("layout/gguf_nonfinite", "input", NONFINITE, "input"),
    Row("layout/gguf_nonfinite", r".*\.deq", f"{NONFINITE}::test_what_gguf_wrote_is_read_as_by_gguf", "same"),
    Row("layout/gguf_nonfinite", r".*\.q", f"{NONFINITE}::test_blocks_of_numbers_that_fit_have_ggufs_bytes", "but"),
    Row("layout/llada_gguf", r"w\..*|tokens", "layout/test_gguf_products", "input"),
    Row("layout/llada_gguf", r"logits\..*", "layout/test_gguf_products::test_files_of_every_recorded_type", "near"),
    Row("layout/matmul_nbits", r".*\.[AY]", "layout/test_matmul_nbits::test_their_bytes", "near"),
    Row("layout/matmul_nbits", ".*", "layout/test_matmul_nbits::test_their_bytes", "same"),
    Row("layout/packing_gptq_awq", r".*\.scales(_in)?", f"{SCALES}::test_packers_round_scales_to_float16", "same"),
    Row("layout/packing_gptq_awq", r"autogptq\.zero0\..*", f"{LGPTQ}::test_autogptq_loses_the_neighbours_of_a_zero_of_0", "same"),
    Row("layout/packing_gptq_awq", r"autogptq\..*", f"{LGPTQ}::test_autogptq", "same"),
    Row("layout/packing_gptq_awq", r"gptq\..*", f"{LGPTQ}::test_gptqmodel", "same"),
    Row("layout/packing_gptq_awq", r"awq_gemm\..*", "layout/test_awq::test_gemm", "same"),
    Row("layout/stacked_rows", r"quarot\..*", f"{STACKED}::test_quarot", "same"),
    Row("layout/stacked_rows", ".*", f"{STACKED}::test_their_bytes", "same"),
    Row("quant/autoround", "input", SCHEME, "input"),
    Row("quant/autoround", r"(mxfp|nvfp).*", f"{ELEM}::test_auto_round_blocks", "but"),
    Row("quant/autoround", ".*", f"{SCHEME}::test_auto_round", "same"),
    Row("quant/brevitas", "input", SCHEME, "input"),
    Row("quant/brevitas", ".*", f"{SCHEME}::test_brevitas", "same"),
    Row("quant/duquant_fake_quant", "x", RTN, "input"),
    Row("quant/duquant_fake_quant", ".*", f"{RTN}::test_duquant", "same"),
    Row("quant/duquant_rotation", "[xw]", "methods/test_duquant", "input"),
    Row("quant/duquant_rotation", r"rot\..*", "methods/test_duquant::test_base_rotation_is_the_authors", "near"),
    Row("quant/duquant_rotation", r".*\.zigzag", "methods/test_duquant::test_permutations_of_the_raw_tensors", "same"),
    Row("quant/duquant_rotation", r".*\.perm", "methods/test_duquant::test_permutations_are_the_authors", "same"),
    Row(
        "quant/duquant_rotation",
        r".*\.(R|rotated|reapplied)",
        "methods/test_duquant::test_recorded_transforms_give_the_recorded_inputs",
        "near",
    ),
    Row("quant/duquant_symmetric", "x", ELEM, "input"),
    Row("quant/duquant_symmetric", ".*", f"{ELEM}::test_duquant_symmetric", "same"),
    Row("quant/gptq_istdaslab", "W|X|X_few", GPTQ, "input"),
    Row("quant/gptq_istdaslab", "H.*", f"{TERNARY}::test_hessians", "near"),
    Row("quant/gptq_istdaslab", r"gptq\.bits2_sym0_trits1\..*", f"{TERNARY}::test_ternary_mode", "near"),
    Row("quant/gptq_istdaslab", r"gptq\..*\.Q", f"{TERNARY}::test_recorded_numbers_are_those_of_recorded_codes", "same"),
    Row("quant/gptq_istdaslab", r"gptq\..*\.f64\..*", f"{GPTQ}::test_float64_runs_of_the_authors", "near"),
    Row("quant/gptq_istdaslab", r"gptq\..*\.f32\..*", f"{GPTQ}::test_float32_runs_of_the_authors", "near"),
    Row("quant/gptq_istdaslab", r"few\.f64\..*", f"{GPTQ}::test_float64", "near"),
    Row("quant/gptq_istdaslab", r"few\.f32\..*", f"{GPTQ}::test_float32", "near"),
    Row("quant/gptq_istdaslab", r"rtn\..*", f"{RTN}::test_gptq_quantizer", "same"),
    Row("quant/gptq_rtn", "W", RTN, "input"),
    Row("quant/gptq_rtn", ".*", f"{RTN}::test_gptq_quantizer", "same"),
    Row("quant/hqq", "input", HQQ, "input"),
    Row("quant/hqq", r".*\.packed", f"{STACKED}::test_their_bytes", "same"),
    Row("quant/hqq", r".*\.opt0.*", f"{HQQ}::test_without_iterations", "same"),
    Row("quant/hqq", r".*\.opt1.*", f"{HQQ}::test_with_iterations", "near"),
    Row("quant/llm_awq_rtn", "rtn.input", RTN, "input"),
    Row("quant/llm_awq_rtn", ".*", f"{RTN}::test_llm_awq", "same"),
    Row("quant/llm_awq_search", r"search\.(w|x|cos|sin|ln).*", "methods/test_awq", "input"),
    Row("quant/llm_awq_search", r"search\..*", "methods/test_awq::test_the_search_for_factors_is_the_authors", "near"),
    Row("quant/llm_awq_search", r"clip\..*", "methods/test_awq::test_the_search_for_limits_is_the_authors", "near"),
    Row("quant/llmcompressor_gptq", "W|X|num_samples", GPTQ, "input"),
    Row("quant/llmcompressor_gptq", "H_sum", f"{GPTQ}::test_their_hessian_is_twice_ours", "near"),
    Row("quant/llmcompressor_gptq", r"b\d.*", f"{GPTQ}::test_run", "near"),
    Row("quant/modelopt", "input", ELEM, "input"),
    Row("quant/modelopt", r"int\d\.narrow.*", f"{ELEM}::test_modelopt_integers_round_twice", "but"),
    Row("quant/modelopt", r"int4\.g128\.q", f"{ELEM}::test_modelopt_packs_offset_nibbles", "but"),
    Row("quant/modelopt", r"nvfp4\..*", f"{BLOCK}::test_nvfp4_is_that_of_modelopt", "same"),
    Row("quant/modelopt", r"mxfp4\..*", f"{BLOCK}::test_mxfp4_of_modelopt_is_rceil_with_ties_towards_zero", "but"),
    Row("quant/modelopt_nan_cases", ".*", f"{ELEM}::test_modelopt_packs_offset_nibbles", "but"),
    Row("quant/mx_microxcaling_nonfinite", "input", MICRO, "input"),
    Row("quant/mx_microxcaling_nonfinite", r"int\d\..*", f"{MICRO}::test_integer_blocks_with_nan_or_infinities", "but"),
    Row("quant/mx_microxcaling_nonfinite", r"fp.*", f"{ELEM}::test_blocks_with_nan_or_infinities_in_microxcaling", "but"),
    Row("quant/mx_torchao_nonfinite", "input", ELEM, "input"),
    Row("quant/mx_torchao_nonfinite", ".*", f"{ELEM}::test_blocks_with_nan_or_infinities_in_torchao", "but"),
    Row("quant/neural_compressor", "input", SCHEME, "input"),
    Row("quant/neural_compressor", r"fp4_e2m1\..*", f"{ELEM}::test_neural_compressor_calls_e2m1_what_is_none", "same"),
    Row("quant/neural_compressor", r"(fp4_e2m1_bnb|nf4)\..*", f"{ELEM}::test_neural_compressor_tables", "same"),
    Row("quant/neural_compressor", ".*", f"{SCHEME}::test_neural_compressor", "same"),
    Row("quant/nncf", "input", SCHEME, "input"),
    Row("quant/nncf", r"int.*", f"{SCHEME}::test_nncf_integers", "same"),
    Row("quant/nncf", r"mxfp.*", f"{ELEM}::test_nncf_microscaling", "but"),
    Row("quant/nncf", r"nvfp.*", f"{ELEM}::test_nncf_nvfp4_divides_by_scales_that_are_not_rounded", "but"),
    Row("quant/nncf", ".*", f"{ELEM}::test_nncf_floats", "but"),
    Row("quant/onnxruntime_blocks", "input", RTN, "input"),
    Row("quant/onnxruntime_blocks", ".*", f"{RTN}::test_onnxruntime", "same"),
    Row("quant/onnxruntime_float8_nonfinite", "input", ELEM, "input"),
    Row("quant/onnxruntime_float8_nonfinite", ".*", f"{ELEM}::test_onnxruntime_float8_saturates_infinities", "same"),
    Row("quant/onnxruntime_floats", "input", ELEM, "input"),
    Row("quant/onnxruntime_floats", r"dynamic\..*", f"{ELEM}::test_dynamic_quantize_linear", "but"),
    Row("quant/onnxruntime_floats", r".*float4e2m1\..*", f"{ELEM}::test_float4_of_the_onnx_evaluator", "same"),
    Row("quant/onnxruntime_floats", ".*", f"{ELEM}::test_onnxruntime_float8", "same"),
    Row("quant/onnxruntime_integer", r"input|ties\d\.x", RTN, "input"),
    Row("quant/onnxruntime_integer", r"ties.*", f"{RTN}::test_onnxruntime_divides_at_exact_ties", "same"),
    Row("quant/onnxruntime_integer", ".*", f"{RTN}::test_onnxruntime", "same"),
    Row("quant/onnxruntime_nonfinite", "input", RTN, "input"),
    Row("quant/onnxruntime_nonfinite", ".*", f"{RTN}::test_onnxruntime_infinities", "but"),
    Row("quant/quanto", "input", OFFSET, "input"),
    Row("quant/quanto", r".*\.packed", f"{STACKED}::test_their_bytes", "same"),
    Row("quant/quanto", r"int[24]\..*\.max\..*", f"{OFFSET}::test_quanto", "but"),
    Row("quant/quanto", r"int[24]\..*\.hqq\..*", f"{OFFSET}::test_quanto_tensors_decode", "same"),
    Row("quant/quanto", ".*", f"{ELEM}::test_quanto_rows", "but"),
    Row("quant/quanto_nan_cases", ".*", f"{ELEM}::test_quanto_rows", "but"),
    Row("quant/quarot_fake_quant", "q.input", RTN, "input"),
    Row("quant/quarot_fake_quant", r"wq\..*", f"{RTN}::test_quarot_weights", "but"),
    Row("quant/quarot_fake_quant", r"aq\..*", f"{RTN}::test_quarot_activations", "but"),
    Row("quant/quarot_hadamard", r".*\.(x|W|gain|signs)", "numerics/test_hadamard", "input"),
    Row("quant/quarot_hadamard", r".*\.hadK_int8", "numerics/test_hadamard::test_bases_are_quarots_entry_by_entry", "same"),
    Row("quant/quarot_hadamard", r"had\..*", "numerics/test_hadamard::test_quarots_transform", "near"),
    Row("quant/quarot_hadamard", r"randhad\..*", "numerics/test_hadamard::test_quarots_random_hadamard", "near"),
    Row("quant/quarot_hadamard", r"inv\..*", "methods/test_quarot::test_rotation_invariance_of_the_recorded_layer", "near"),
    Row("quant/smoothquant_factors", r".*(_in|act_absmax)", "methods/test_smoothquant", "input"),
    Row("quant/smoothquant_factors", r".*\.scales", "methods/test_smoothquant::test_factors_are_the_authors", "but"),
    Row("quant/smoothquant_factors", ".*", "methods/test_smoothquant::test_the_rewritten_layer_is_the_authors_byte_for_byte", "but"),
    Row("quant/smoothquant_fake_quant", "fq.input", RTN, "input"),
    Row("quant/smoothquant_fake_quant", ".*", f"{RTN}::test_smoothquant", "same"),
    Row("quant/torch_fake_quantize", "input", TORCH, "input"),
    Row("quant/torch_fake_quantize", r".*\.reduce\..*", f"{TORCH}::test_a_reduced_range_is_one_bit_less", "same"),
    Row("quant/torch_fake_quantize", r"fakepc\.fzp.*", f"{TORCH}::test_real_zero_points_are_decoded_with_one_rounding", "but"),
    Row("quant/torch_fake_quantize", r"fakepc\..*", f"{TORCH}::test_fake_quantization_on_given_scales", "same"),
    Row("quant/torch_fake_quantize", r".*\.fake", f"{TORCH}::test_fake_quantization_of_channels", "same"),
    Row("quant/torch_fake_quantize", ".*", f"{TORCH}::test_signed_affine_codes", "same"),
    Row("quant/torch_native_nonfinite", "input", HALF, "input"),
    Row("quant/torch_native_nonfinite", r"cast\.float8_e8m0fnu", f"{HALF}::test_special_numbers_of_torch_in_e8m0", "but"),
    Row("quant/torch_native_nonfinite", r"cast\..*", f"{HALF}::test_special_numbers_of_torch", "but"),
    Row("quant/torch_native_nonfinite", ".*", f"{ELEM}::test_infinities_of_torch_saturate_and_nan_takes_an_end", "but"),
    Row("quant/torch_quantize", r"input|ties\.(input|scales)|ties\.\d\.x", RTN, "input"),
    Row("quant/torch_quantize", r"ties\..*", f"{RTN}::test_torch_multiplies_by_the_reciprocal_at_exact_ties", "but"),
    Row("quant/torch_quantize", r".*\.(q|deq)", f"{RTN}::test_torch_quantize", "but"),
    Row("quant/torch_quantize", ".*", f"{SCHEME}::test_torch_observers", "same"),
    Row("quant/torchao_int", "input", SCHEME, "input"),
    Row("quant/torchao_int", r"tinygemm\..*", f"{OFFSET}::test_tinygemm", "same"),
    Row("quant/torchao_int", ".*", f"{SCHEME}::test_torchao", "same"),
)


def row_of(file: str, name: str) -> Row | None:
    """The row that answers for a tensor."""
    return next((row for row in LEDGER if row.file == file and row.matches(name)), None)


def table() -> str:
    lines = ["| file | tensors | test | |", "|---|---|---|---|"]
    for row in LEDGER:
        if row.result != "input":
            pattern = row.pattern.replace("|", "\\|")
            lines.append(f"| {row.file} | `{pattern}` | {row.tests} | {row.result} |")
    return "\n".join(lines)


def page() -> str:
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
