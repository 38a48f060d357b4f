/* One-node graphs of one kernel, each with parameters of its own, launched in
 * turn as they are; beside them one graph that is given other parameters before
 * each launch, and the plain launch call.  Host time and time to completion,
 * nanoseconds a launch, medians over 60 batches of 512.
 *
 *     cc -O2 graphs_in_turn.c -lcuda && ./a.out
 */
#include <cuda.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CHECK(call)                                                   \
    do {                                                              \
        CUresult result_ = (call);                                    \
        if (result_ != CUDA_SUCCESS) {                                \
            fprintf(stderr, "%s: error %d\n", #call, (int)result_);   \
            exit(1);                                                  \
        }                                                             \
    } while (0)

enum { MOST = 256, BATCHES = 60, LAUNCHES = 512 };
enum { PLAIN = 0, ONE_INT = -1, POINTER_AND_INT = -2 }; /* else so many graphs in turn */

/* 5 pointers, 8 ints, 2 pointers: those of a Triton kernel with 19 parameters. */
static const char *const ptx =
    ".version 8.0\n.target sm_80\n.address_size 64\n"
    ".visible .entry nothing(.param .u64 a, .param .u64 b, .param .u64 c, .param .u64 d, .param .u64 e,\n"
    ".param .u32 f, .param .u32 g, .param .u32 h, .param .u32 i, .param .u32 j, .param .u32 k, .param .u32 l,\n"
    ".param .u32 m, .param .u64 n, .param .u64 o) { ret; }\n";

static unsigned char bytes[MOST][88];
static size_t size = sizeof bytes[0];
static CUfunction function;
static void *extra[MOST][5];
static CUDA_KERNEL_NODE_PARAMS launches[MOST];
static CUgraph graphs[MOST];
static CUgraphNode nodes[MOST];
static CUgraphExec execs[MOST];

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

static void make(int i)
{
    void *buffer[5] = {CU_LAUNCH_PARAM_BUFFER_POINTER, bytes[i], CU_LAUNCH_PARAM_BUFFER_SIZE, &size,
                       CU_LAUNCH_PARAM_END};
    memset(bytes[i], i, 40);
    memcpy(extra[i], buffer, sizeof buffer);
    launches[i] = (CUDA_KERNEL_NODE_PARAMS){.func = function, .gridDimX = 1, .gridDimY = 1, .gridDimZ = 1,
                                            .blockDimX = 128, .blockDimY = 1, .blockDimZ = 1, .extra = extra[i]};
    CHECK(cuGraphCreate(&graphs[i], 0));
    CHECK(cuGraphAddKernelNode(&nodes[i], graphs[i], NULL, 0, &launches[i]));
    CHECK(cuGraphInstantiateWithFlags(&execs[i], graphs[i], 0));
    CHECK(cuGraphLaunch(execs[i], 0)); /* makes room for it on the device */
}

static void launch(int way, int i)
{
    static const CUlaunchConfig config = {.gridDimX = 1, .gridDimY = 1, .gridDimZ = 1, .blockDimX = 128,
                                          .blockDimY = 1, .blockDimZ = 1};
    if (way == PLAIN) {
        CHECK(cuLaunchKernelEx(&config, function, NULL, extra[i % MOST]));
    } else if (way > 0) {
        CHECK(cuGraphLaunch(execs[i & (way - 1)], 0));
    } else {
        memcpy(bytes[0] + 40, &i, 4);
        if (way == POINTER_AND_INT)
            memcpy(bytes[0] + 8, &i, 4);
        CHECK(cuGraphExecKernelNodeSetParams(execs[0], nodes[0], &launches[0]));
        CHECK(cuGraphLaunch(execs[0], 0));
    }
}

int main(void)
{
    static const int ways[] = {PLAIN, ONE_INT, POINTER_AND_INT, 1, 2, 4, 8, 16, 32, 64, 128, 256};
    double host[BATCHES], finished[BATCHES];
    CUdevice device;
    CUcontext context;
    CUmodule module;
    CHECK(cuInit(0));
    CHECK(cuDeviceGet(&device, 0));
    CHECK(cuDevicePrimaryCtxRetain(&context, device));
    CHECK(cuCtxSetCurrent(context));
    CHECK(cuModuleLoadData(&module, ptx));
    CHECK(cuModuleGetFunction(&function, module, "nothing"));
    for (int i = 0; i < MOST; ++i)
        make(i);
    CHECK(cuCtxSynchronize());
    for (size_t w = 0; w < 2 * sizeof ways / sizeof *ways; ++w) {
        int way = ways[w % (sizeof ways / sizeof *ways)];
        for (int batch = 0; batch < BATCHES; ++batch) {
            double start = now();
            for (int i = 0; i < LAUNCHES; ++i)
                launch(way, i);
            host[batch] = (now() - start) / LAUNCHES;
            CHECK(cuCtxSynchronize());
            finished[batch] = (now() - start) / LAUNCHES;
        }
        qsort(host, BATCHES, sizeof *host, compare);
        qsort(finished, BATCHES, sizeof *finished, compare);
        printf("%s %3d: host %6.0f, finished %6.0f ns\n",
               way == PLAIN ? "plain call      " : way == ONE_INT ? "patched, 1 int  " :
               way == POINTER_AND_INT ? "patched, ptr+int" : "graphs in turn  ",
               way > 0 ? way : 1, host[BATCHES / 2], finished[BATCHES / 2]);
    }
    return 0;
}
