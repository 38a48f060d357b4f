/* What it costs to give the nodes of an executable graph other parameters, and
 * to launch it then: by pointers or in one buffer, by how much of a node's
 * parameters changed and where.  Host time and time to completion, nanoseconds
 * a node, medians over 60 batches; the plain launch call beside it.  Then, for
 * 32 nodes, how far apart two ints are that changed in each.
 *
 *     cc -O2 graph_patches.c -lcuda && ./a.out
 */
#include <cuda.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CHECK(call)                                                   \
    do {                                                              \
        CUresult result = (call);                                     \
        if (result != CUDA_SUCCESS) {                                 \
            fprintf(stderr, "%s: error %d\n", #call, (int)result);    \
            exit(1);                                                  \
        }                                                             \
    } while (0)

enum { MOST = 32, BATCHES = 60, PARAMETERS = 15 };

/* 5 pointers, 8 ints, 2 pointers: those of a Triton kernel with 19 parameters. */
static const char *const ptx =
    ".version 8.0\n.target sm_80\n.address_size 64\n"
    ".visible .entry nothing(.param .u64 a, .param .u64 b, .param .u64 c, .param .u64 d, .param .u64 e,\n"
    ".param .u32 f, .param .u32 g, .param .u32 h, .param .u32 i, .param .u32 j, .param .u32 k, .param .u32 l,\n"
    ".param .u32 m, .param .u64 n, .param .u64 o) { ret; }\n";
static const int offsets[PARAMETERS] = {0, 8, 16, 24, 32, 40, 44, 48, 52, 56, 60, 64, 68, 72, 80};

static unsigned char bytes[MOST][88];
static size_t size = sizeof bytes[0];

enum change { PLAIN, ALONE, UNCHANGED, ONE, BESIDE, APART, FOUR, ALL, CHANGES };
static const char *const names[CHANGES] = {
    "cuLaunchKernelEx", "launched as it was", "set to what it was", "one int", "two ints beside each other",
    "a pointer and an int", "two pointers and two ints", "all"};

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1e9 + time.tv_nsec;
}

static int compare(const void *left, const void *right)
{
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

static double median(double *values)
{
    qsort(values, BATCHES, sizeof *values, compare);
    return values[BATCHES / 2];
}

static void change(unsigned char *at, enum change how, unsigned number)
{
    static const int places[CHANGES][5] = {
        [ONE] = {40, -1}, [BESIDE] = {40, 44, -1}, [APART] = {8, 40, -1}, [FOUR] = {8, 24, 40, 64, -1}};
    if (how == ALL)
        for (unsigned i = 0; i < size; i += 4, number += i)
            memcpy(at + i, &number, 4);
    else if (how >= ONE)
        for (const int *place = places[how]; *place >= 0; ++place)
            memcpy(at + *place, &number, 4);
}

static void measure(CUfunction function, int count, int by_buffer)
{
    static void *pointers[MOST][PARAMETERS], *extra[MOST][5];
    static CUDA_KERNEL_NODE_PARAMS launches[MOST];
    CUlaunchConfig config = {.gridDimX = 1, .gridDimY = 1, .gridDimZ = 1, .blockDimX = 128, .blockDimY = 1,
                             .blockDimZ = 1};
    CUgraph graph;
    CUgraphNode nodes[MOST];
    CUgraphExec executable;
    CHECK(cuGraphCreate(&graph, 0));
    for (int i = 0; i < count; ++i) {
        void *const buffer[5] = {CU_LAUNCH_PARAM_BUFFER_POINTER, bytes[i], CU_LAUNCH_PARAM_BUFFER_SIZE, &size,
                                 CU_LAUNCH_PARAM_END};
        memcpy(extra[i], buffer, sizeof buffer);
        for (int j = 0; j < PARAMETERS; ++j)
            pointers[i][j] = bytes[i] + offsets[j];
        launches[i] = (CUDA_KERNEL_NODE_PARAMS){.func = function, .gridDimX = 1, .gridDimY = 1, .gridDimZ = 1,
                                                .blockDimX = 128, .blockDimY = 1, .blockDimZ = 1};
        launches[i].kernelParams = by_buffer ? NULL : pointers[i];
        launches[i].extra = by_buffer ? extra[i] : NULL;
        CHECK(cuGraphAddKernelNode(&nodes[i], graph, i ? &nodes[i - 1] : NULL, i ? 1 : 0, &launches[i]));
    }
    CHECK(cuGraphInstantiate(&executable, graph, 0));
    for (enum change how = PLAIN; how < CHANGES; ++how) {
        double host[BATCHES], total[BATCHES];
        int times = count == 1 ? 300 : 9;
        for (int batch = 0; batch < BATCHES; ++batch) {
            CHECK(cuCtxSynchronize());
            double start = now();
            for (int n = 0; n < times; ++n) {
                for (int i = 0; i < count && how != ALONE; ++i) {
                    change(bytes[i], how, (unsigned)(batch * times + n) * 977);
                    if (how == PLAIN)
                        CHECK(cuLaunchKernelEx(&config, function, launches[i].kernelParams, launches[i].extra));
                    else
                        CHECK(cuGraphExecKernelNodeSetParams(executable, nodes[i], &launches[i]));
                }
                if (how != PLAIN)
                    CHECK(cuGraphLaunch(executable, NULL));
            }
            host[batch] = (now() - start) / times / count;
            CHECK(cuCtxSynchronize());
            total[batch] = (now() - start) / times / count;
        }
        printf("%2d, %-8s  %-26s  %5.0f  %5.0f\n", count, by_buffer ? "buffer" : "pointers", names[how],
               median(host), median(total));
    }
    CHECK(cuGraphExecDestroy(executable));
    CHECK(cuGraphDestroy(graph));
}

static void measure_distances(CUfunction function)
{
    static void *extra[MOST][5];
    static CUDA_KERNEL_NODE_PARAMS launches[MOST];
    CUgraph graph;
    CUgraphNode nodes[MOST];
    CUgraphExec executable;
    unsigned number = 0;
    CHECK(cuGraphCreate(&graph, 0));
    for (int i = 0; i < MOST; ++i) {
        void *const buffer[5] = {CU_LAUNCH_PARAM_BUFFER_POINTER, bytes[i], CU_LAUNCH_PARAM_BUFFER_SIZE, &size,
                                 CU_LAUNCH_PARAM_END};
        memcpy(extra[i], buffer, sizeof buffer);
        launches[i] = (CUDA_KERNEL_NODE_PARAMS){.func = function, .gridDimX = 1, .gridDimY = 1, .gridDimZ = 1,
                                                .blockDimX = 128, .blockDimY = 1, .blockDimZ = 1, .extra = extra[i]};
        CHECK(cuGraphAddKernelNode(&nodes[i], graph, i ? &nodes[i - 1] : NULL, i ? 1 : 0, &launches[i]));
    }
    CHECK(cuGraphInstantiate(&executable, graph, 0));
    for (int first = 0; first <= 48; first += 8) {
        printf("from byte %2d, bytes apart: host", first);
        for (int second = first; second < (int)size - 4; second += 4) {
            double host[BATCHES];
            for (int batch = 0; batch < BATCHES; ++batch) {
                CHECK(cuCtxSynchronize());
                double start = now();
                for (int n = 0; n < 5; ++n) {
                    for (int i = 0; i < MOST; ++i) {
                        number += 977;
                        memcpy(bytes[i] + first, &number, 4);
                        memcpy(bytes[i] + second, &number, 4);
                        CHECK(cuGraphExecKernelNodeSetParams(executable, nodes[i], &launches[i]));
                    }
                    CHECK(cuGraphLaunch(executable, NULL));
                }
                host[batch] = (now() - start) / 5 / MOST;
            }
            printf("  %d: %.0f", second - first, median(host));
        }
        printf("\n");
    }
    CHECK(cuGraphExecDestroy(executable));
    CHECK(cuGraphDestroy(graph));
}

int main(void)
{
    CUdevice device;
    CUcontext context;
    CUmodule module;
    CUfunction function;
    CHECK(cuInit(0));
    CHECK(cuDeviceGet(&device, 0));
    CHECK(cuDevicePrimaryCtxRetain(&context, device));
    CHECK(cuCtxSetCurrent(context));
    CHECK(cuModuleLoadData(&module, ptx));
    CHECK(cuModuleGetFunction(&function, module, "nothing"));
    printf("nodes, passed by, what changed, host, until finished (ns a node)\n");
    for (int round = 0; round < 3; ++round)
        for (int nodes = 1; nodes <= MOST; nodes += MOST - 1)
            for (int by_buffer = 0; by_buffer < 2; ++by_buffer)
                measure(function, nodes, by_buffer);
    measure_distances(function);
    return 0;
}
