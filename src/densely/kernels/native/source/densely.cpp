// What Python calls. Maps are float or bfloat16, as the macro MAPS says; all else is float. Sizes count elements.
// Maps that a block has to itself lie in slabs (maps.h); `first` is the first channel that is meant.

#include "batch_norm.h"
#include "block.h"
#include "sgd.h"
#include "transition.h"

extern "C" {

long densely_slab() { return SLAB; }

void densely_draw(long elements, long key0, long key1, long dropped, uint8_t* bits, int threads) {
    draw(elements, uint32_t(key0), uint32_t(key1), int(dropped), bits, threads);
}

void densely_sgd(
    long count, const Parameter* parameters, float rate, float momentum, float decay, long nesterov, int threads) {
    sgd(parameters, count, rate, momentum, decay, nesterov, threads);
}

void densely_take_in(long rows, long channels, const MAPS* x, MAPS* to, float* mean, float* variance, int threads) {
    take_in(rows, channels, x, to, mean, variance, threads);
}

void densely_take_gradient(long rows, long channels, const MAPS* x, float* to, int threads) {
    take_gradient(rows, channels, x, to, threads);
}

void densely_give_out(long rows, long channels, const MAPS* maps, MAPS* to, int threads) {
    give_out(rows, channels, maps, to, threads);
}

void densely_complete(
    long rows, long channels, const MAPS* maps, const float* source, const float* c, const float* e, const float* mean, MAPS* to,
    int threads) {
    complete<false>(rows, channels, maps, source, c, e, mean, to, threads);
}

void densely_complete_rows(
    long rows, long channels, const MAPS* maps, const float* source, const float* c, const float* e, const float* mean, MAPS* to,
    int threads) {
    complete<true>(rows, channels, maps, source, c, e, mean, to, threads);
}

void densely_batch_norm_forward(
    long rows, long channels, const MAPS* x, const float* gamma, const float* beta, const float* mean, const float* rstd, MAPS* y,
    int threads) {
    batch_norm_forward<MAPS>(rows, x, {gamma, beta, mean, rstd, channels}, y, threads);
}

void densely_batch_norm_backward(
    long rows, long channels, const MAPS* x, const float* gamma, const float* beta, const float* mean, const float* rstd,
    const MAPS* dy, float* gamma_gradient, float* beta_gradient, MAPS* dx, int threads) {
    batch_norm_backward<MAPS>(rows, x, {gamma, beta, mean, rstd, channels}, dy, gamma_gradient, beta_gradient, dx, threads);
}

void densely_pointwise_forward(
    long rows, long in, long out, const MAPS* x, const float* gamma, const float* beta, const float* norm_mean,
    const float* rstd, const float* kernel, const float* bias, float factor, const uint8_t* bits, MAPS* y, float* mean,
    float* variance, int threads) {
    const Norm norm{gamma, beta, norm_mean, rstd, in};
    pointwise_forward<MAPS>({x, rows, 0, in}, out, norm, {kernel, bias, factor, bits}, y, mean, variance, threads);
}

void densely_pointwise_backward(
    long rows, long in, long out, const MAPS* x, const float* gamma, const float* beta, const float* norm_mean,
    const float* rstd, const float* kernel, const float* bias, float factor, const uint8_t* bits, const float* d,
    const float* d_scale, const MAPS* y, const float* c, const float* e, const float* mean, float* to, float* gamma_gradient,
    float* beta_gradient, float* kernel_gradient, float* bias_gradient, int threads) {
    const Norm norm{gamma, beta, norm_mean, rstd, in};
    pointwise_backward<MAPS>(
        {x, rows, 0, in}, out, norm, {kernel, bias, factor, bits}, {d, d_scale, y, c, e, mean}, to,
        {gamma_gradient, beta_gradient, kernel_gradient, bias_gradient}, threads);
}

void densely_spatial_forward(
    long images, long height, long width, long in, long first, long out, const MAPS* x, const float* gamma, const float* beta,
    const float* norm_mean, const float* rstd, const float* kernel, const float* bias, float factor, const uint8_t* bits,
    MAPS* y, float* mean, float* variance, int threads) {
    const Shape shape{images, height, width};
    const Norm norm{gamma, beta, norm_mean, rstd, in};
    const Maps<MAPS> to{y, shape.pixels(), first, out};
    spatial_forward<MAPS>(
        shape, {x, shape.pixels(), 0, in}, norm, {kernel, bias, factor, bits}, to, mean, variance, threads);
}

void densely_spatial_backward(
    long images, long height, long width, long in, long first, long out, const MAPS* x, const float* gamma, const float* beta,
    const float* norm_mean, const float* rstd, const float* kernel, const float* bias, float factor, const uint8_t* bits,
    const MAPS* maps, const float* source, const float* c, const float* e, const float* mean, long grows, float* to, float* gamma_gradient,
    float* beta_gradient, float* kernel_gradient, float* bias_gradient, int threads) {
    const Shape shape{images, height, width};
    const Norm norm{gamma, beta, norm_mean, rstd, in};
    spatial_backward<MAPS>(
        shape, {x, shape.pixels(), 0, in}, norm, {kernel, bias, factor, bits}, {maps, shape.pixels(), first, out}, source, c, e,
        mean, grows, to, {gamma_gradient, beta_gradient, kernel_gradient, bias_gradient}, threads);
}

// `given` are the layers' pointers, twelve each in the order of `Given`.
void densely_block_inference(
    long images, long height, long width, long start, long growth, long bottleneck, long depth, const Given* given,
    float epsilon, const MAPS* x, MAPS* y, int threads) {
    block_inference({images, height, width}, start, growth, bottleneck, {given, given + depth}, epsilon, x, y, threads);
}

// `masks` are missing without dropout, as are its `keys`; `numbers` are rows of mean, rstd and variance, of all maps and of all
// layers' bottleneck maps.
void densely_block_forward(
    long images, long height, long width, long start, long growth, long bottleneck, long depth, const Given* given, float factor,
    uint8_t* masks, long room, long growth_room, const long* keys, long dropped, float epsilon, float momentum, float taken,
    const MAPS* x, MAPS* maps, float* numbers, MAPS* inner, float* inner_numbers, MAPS* y, int threads) {
    const Sizes sizes{{images, height, width}, start, growth, bottleneck, depth};
    block_forward<MAPS>(
        sizes, given, {factor, masks, room, growth_room}, keys, dropped, epsilon, {momentum, taken}, x,
        kept(sizes, maps, numbers, inner, inner_numbers), y, threads);
}

// `results` are the pointers that gradients go to, eight a layer in the order of `Given`.
void densely_block_backward(
    long images, long height, long width, long start, long growth, long bottleneck, long depth, const Given* given, float factor,
    uint8_t* masks, long room, long growth_room, MAPS* maps, float* numbers, MAPS* inner, float* inner_numbers, const MAPS* dy,
    float* G, float* d, const Gradients* results, long lowest, MAPS* dx, int threads) {
    const Sizes sizes{{images, height, width}, start, growth, bottleneck, depth};
    block_backward<MAPS>(
        sizes, given, {factor, masks, room, growth_room}, kept(sizes, maps, numbers, inner, inner_numbers), dy, G, d, results, lowest,
        dx, threads);
}

void densely_transition_forward(
    long images, long height, long width, long in, long out, const MAPS* x, const float* gamma, const float* beta,
    const float* norm_mean, const float* rstd, const float* kernel, const float* bias, float factor, const uint8_t* bits,
    MAPS* y, int threads) {
    const Norm norm{gamma, beta, norm_mean, rstd, in};
    transition_forward<MAPS>({images, height, width, in, out}, x, norm, {kernel, bias, factor, bits}, y, threads);
}

void densely_transition_backward(
    long images, long height, long width, long in, long out, const MAPS* x, const float* gamma, const float* beta,
    const float* norm_mean, const float* rstd, const float* kernel, const float* bias, float factor, const uint8_t* bits,
    const MAPS* dy, float* to, float* gamma_gradient, float* beta_gradient, float* kernel_gradient, float* bias_gradient,
    int threads) {
    const Norm norm{gamma, beta, norm_mean, rstd, in};
    transition_backward<MAPS>(
        {images, height, width, in, out}, x, norm, {kernel, bias, factor, bits}, dy, to,
        {gamma_gradient, beta_gradient, kernel_gradient, bias_gradient}, threads);
}
}
