from __future__ import annotations

from clipbert_jax.costs.compiled_program import summarise

PROGRAM = """\
HloModule jit_step, entry_computation_layout={(f32[8,4]{1,0})->f32[8,4]{1,0}}

%fused_computation (param_0: f32[8,4]) -> f32[8,4] {
  %param_0 = f32[8,4]{1,0} parameter(0)
  ROOT %copy.9 = f32[8,4]{1,0} copy(%param_0)
}

%body (p: (s32[], f32[8,4], f32[1], f32[1], f32[1], /*index=5*/f32[1])) -> (s32[], f32[8,4]) {
  %p = (s32[], f32[8,4]{1,0}, f32[1]{0}, f32[1]{0}, f32[1]{0}, /*index=5*/f32[1]{0}) parameter(0)
  %x = f32[8,4]{1,0} get-tuple-element(%p), index=1
  ROOT %copy.1 = f32[8,4]{1,0} copy(%x)
}

ENTRY %main (Arg_0: f32[8,4]) -> f32[8,4] {
  %Arg_0 = f32[8,4]{1,0} parameter(0)
  %t = (s32[], f32[8,4]{1,0}, f32[1]{0}, f32[1]{0}, f32[1]{0}, /*index=5*/f32[1]{0}) tuple(%Arg_0)
  %while.1 = (s32[], f32[8,4]{1,0}, f32[1]{0}, f32[1]{0}, f32[1]{0}, /*index=5*/f32[1]{0}) while(%t), \
condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"11"}}
  %conv.1 = (bf16[2,2]{1,0}, u8[0]{0}) custom-call(%Arg_0), \
custom_call_target="__cudnn$convBiasActivationForward", backend_config={"activation_mode":"kRelu"}
  %conv.2 = (bf16[2,2]{1,0}, u8[0]{0}) custom-call(%Arg_0), \
custom_call_target="__cudnn$convBiasActivationForward", backend_config={"activation_mode":"kNone"}
  %product.1 = (bf16[2,2]{1,0}, s8[4]{0}) custom-call(%Arg_0), custom_call_target="__cublas$lt$matmul", \
backend_config={"epilogue":"BIAS_RELU"}
  %all-reduce-start.1 = f32[8,4]{1,0} all-reduce-start(%Arg_0), to_apply=%add
  %all-reduce-done.1 = f32[8,4]{1,0} all-reduce-done(%all-reduce-start.1)
  ROOT %fusion.1 = f32[8,4]{1,0} fusion(%all-reduce-done.1), kind=kLoop, calls=%fused_computation, \
backend_config={"estimated_cycles":"70"}
}
"""


def test_loops_count_as_often_as_they_turn_and_fusions_once():
    summary = summarise(PROGRAM)
    # 11 copies in the loop; two convolutions, a product, an all-reduce and a fusion around it.
    assert summary.num_kernels == 11 + 5
    assert summary.copies == 11
    array = 8 * 4 * 4
    assert summary.copied_bytes == 11 * 2 * array
    results = 2 * (2 * 2 * 2) + (2 * 2 * 2 + 4)
    assert summary.moved_bytes == 11 * 2 * array + 3 * array + results + 2 * array + 2 * array
    assert summary.estimated_cycles == 70


def test_collectives_and_fused_calls_are_counted():
    summary = summarise(PROGRAM)
    assert summary.collectives == {"all-reduce": 1}
    assert (summary.num_convolutions, summary.num_fused_bias, summary.num_fused_relu) == (2, 3, 2)
    assert summary.num_fused_attention == 0
