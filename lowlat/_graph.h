/* The graph route: a launch as a one-node executable graph whose parameters
 * are replaced before it is launched, which costs the host less than
 * cuLaunchKernelEx does (measured: docs/results).
 *
 * An executable graph belongs to one plan and one stream, since launched into
 * two streams it would make one wait for the other, and is used by one thread
 * at a time.  A plan has one graph in a stream that takes whatever parameters
 * come, and further ones for parameters that come again and again (a model's
 * layers by turns, say): a graph that has its parameters already is launched as
 * it is, which is half of what it costs to replace them first.
 *
 * All that follows is called with the GIL held, which is the lock of the lists,
 * but for lowlat_graph_launch, which has a graph to itself while `busy` is set.
 */
#ifndef LOWLAT_GRAPH_H
#define LOWLAT_GRAPH_H

#include "_driver.h"

#include <alloca.h>
#include <stdlib.h>
#include <time.h>

typedef struct lowlat_graph {
    struct lowlat_graph *next;   /* of the same plan */
    struct lowlat_graph **first; /* where the plan's list begins */
    struct lowlat_graph *newer, *older; /* of all */
    CUstream stream;
    void *context;
    CUgraph graph; /* kept: `node` names a node of it */
    CUgraphNode node;
    CUgraphExec exec;
    uint32_t *hot; /* launches until the plan gets another one */
    struct lowlat_repeat *repeat; /* whose parameters it is for; NULL: for any */
    uint64_t used; /* the clock when it was last launched */
    int launched;  /* at least once: the driver has made room for it on the device */
    int busy;      /* patched and launched right now, the GIL released */
    /* What the node was given last; a grid of zeros: nothing yet. */
    size_t size; /* of the parameters, where they are passed as one buffer */
    uint32_t grid[3];
    unsigned char bytes[];
} lowlat_graph;

/* Parameters that were launched before, by their hash, with grid and stream. */
typedef struct lowlat_repeat {
    uint64_t hash;
    uint32_t heat; /* their launches, less those of others that would have this place */
    lowlat_graph *graph; /* or NULL; what it was given last may be others' */
} lowlat_repeat;

enum { LOWLAT_REPEATS = 32, LOWLAT_WAYS = 4, LOWLAT_LEAST_HEAT = 8, LOWLAT_HEAT_TO_SPARE = 64, LOWLAT_STALE = 64 };

/* Those of a plan: each hash has its few places. */
typedef struct {
    lowlat_graph *graphs;
    uint32_t hot;  /* launches until parameters get a graph */
    unsigned hand; /* the place that cools down next, whichever hash it is of */
    lowlat_repeat places[LOWLAT_REPEATS][LOWLAT_WAYS];
} lowlat_repeats;

static lowlat_graph_api lowlat_graphs;
static const char *lowlat_graphs_missing = "a look for them"; /* or NULL */
static lowlat_graph *lowlat_newest_graph;
static int lowlat_graph_count;
static int lowlat_graph_budget = 256;
static uint64_t lowlat_graph_clock;

static inline lowlat_graph *lowlat_graph_of(lowlat_graph *first, CUstream stream)
{
    while (first != NULL && first->stream != stream)
        first = first->next;
    return first;
}

static inline void lowlat_graph_used(lowlat_graph *graph) { graph->used = ++lowlat_graph_clock; }

/* While another stream is captured in global mode, the driver refuses calls
 * that may allocate or free, and spoils that capture; not in relaxed mode. */
static int lowlat_relax_capture(int mode)
{
    lowlat_graphs.exchange_capture_mode(&mode);
    return mode;
}

static void lowlat_graph_free(CUgraphExec exec, CUgraph graph)
{
    int mode;
    if (exec == NULL && graph == NULL)
        return;
    mode = lowlat_relax_capture(CU_STREAM_CAPTURE_MODE_RELAXED);
    if (exec != NULL)
        lowlat_graphs.destroy_exec(exec);
    if (graph != NULL)
        lowlat_graphs.destroy(graph);
    lowlat_relax_capture(mode);
}

/* A graph that is being launched may be destroyed: the driver frees it when
 * the launch is complete (cuGraphExecDestroy).  Not one that is `busy`. */
static void lowlat_graph_destroy(lowlat_graph *graph)
{
    lowlat_graph **place = graph->first;
    while (*place != graph)
        place = &(*place)->next;
    *place = graph->next;
    if (graph->repeat != NULL)
        graph->repeat->graph = NULL;
    if (graph->newer != NULL)
        graph->newer->older = graph->older;
    else
        lowlat_newest_graph = graph->older;
    if (graph->older != NULL)
        graph->older->newer = graph->newer;
    lowlat_graph_count--;
    lowlat_graph_free(graph->exec, graph->graph);
    free(graph);
}

/* The next graph takes four times as many launches: plans that take each
 * other's graphs away stop doing so. */
static inline void lowlat_cool_down(uint32_t *hot)
{
    uint32_t most = 1u << 30;
    *hot = *hot == 0 ? 4 : *hot > most / 4 ? most : 4 * *hot;
}

/* No more than so many, the longest unused go.  Returns whether that could be. */
static int lowlat_graph_trim(int most)
{
    while (lowlat_graph_count > most) {
        lowlat_graph *graph, *oldest = NULL;
        for (graph = lowlat_newest_graph; graph != NULL; graph = graph->older)
            if (!graph->busy && (oldest == NULL || graph->used < oldest->used))
                oldest = graph;
        if (oldest == NULL)
            return 0;
        if (oldest->repeat == NULL)
            lowlat_cool_down(oldest->hot);
        else
            oldest->repeat->heat = 0;
        lowlat_graph_destroy(oldest);
    }
    return 1;
}

/* A graph of this one launch in the plan's list, or NULL. */
static lowlat_graph *lowlat_graph_make(lowlat_graph **first, uint32_t *hot, CUstream stream, void *context,
                                       const CUkernelNodeParams *launch)
{
    lowlat_graph *graph;
    CUresult result;
    int mode;
    size_t size = launch->extra == NULL ? 0 : *(size_t *)launch->extra[3];
    if (!lowlat_graph_trim(lowlat_graph_budget - 1) || (graph = calloc(1, sizeof *graph + size)) == NULL)
        return NULL;
    graph->size = size;
    mode = lowlat_relax_capture(CU_STREAM_CAPTURE_MODE_RELAXED);
    result = lowlat_graphs.create(&graph->graph, 0);
    if (result == CUDA_SUCCESS)
        result = lowlat_graphs.add_kernel(&graph->node, graph->graph, NULL, 0, launch);
    if (result == CUDA_SUCCESS)
        result = lowlat_graphs.instantiate(&graph->exec, graph->graph, 0);
    lowlat_relax_capture(mode);
    if (result != CUDA_SUCCESS) {
        lowlat_graph_free(NULL, graph->graph);
        free(graph);
        return NULL;
    }
    graph->stream = stream;
    graph->context = context;
    graph->first = first;
    graph->hot = hot;
    graph->next = *first;
    *first = graph;
    graph->older = lowlat_newest_graph;
    if (graph->older != NULL)
        graph->older->newer = graph;
    lowlat_newest_graph = graph;
    lowlat_graph_count++;
    return graph;
}

/* Whether the node has the launch's parameters already.  Not of a `busy` graph. */
static inline int lowlat_graph_has(const lowlat_graph *graph, const CUkernelNodeParams *launch)
{
    return launch->extra != NULL && memcmp(graph->grid, launch->grid, sizeof graph->grid) == 0 &&
           memcmp(graph->bytes, launch->extra[1], graph->size) == 0;
}

/* The node's parameters become the launch's. */
static CUresult lowlat_graph_patch(lowlat_graph *graph, const CUkernelNodeParams *launch)
{
    CUresult result = lowlat_graphs.set_parameters(graph->exec, graph->node, launch);
    if (launch->extra != NULL) {
        memcpy(graph->grid, launch->grid, sizeof graph->grid);
        memcpy(graph->bytes, launch->extra[1], graph->size);
    }
    return result; /* refused, the graph is dropped */
}

/* Without the GIL.  NULL: as it is. */
static CUresult lowlat_graph_launch(lowlat_graph *graph, const CUkernelNodeParams *launch)
{
    int mode = CU_STREAM_CAPTURE_MODE_RELAXED, first = !graph->launched;
    CUresult result = launch == NULL ? CUDA_SUCCESS : lowlat_graph_patch(graph, launch);
    if (result != CUDA_SUCCESS)
        return result;
    if (first)
        mode = lowlat_relax_capture(mode);
    result = lowlat_graphs.launch(graph->exec, graph->stream);
    if (first)
        lowlat_relax_capture(mode);
    graph->launched = 1;
    return result;
}

/* ---- graphs for parameters that come again and again ---------------------- */

/* Not 0. */
static uint64_t lowlat_hash_of(CUstream stream, const CUkernelNodeParams *launch)
{
    const uint64_t odd = 0x9E3779B97F4A7C15u;
    const char *bytes = launch->extra[1];
    size_t size = *(size_t *)launch->extra[3];
    uint64_t word, hash = (uintptr_t)stream ^ launch->grid[0] ^ (uint64_t)launch->grid[1] << 24 ^
                          (uint64_t)launch->grid[2] << 48;
    for (size_t i = 0; i + sizeof word <= size; i += sizeof word) {
        memcpy(&word, bytes + i, sizeof word);
        hash = (hash << 7 | hash >> 57) * odd ^ word;
    }
    return (hash * odd) >> 8 | 1;
}

/* The place of the launch's parameters, noted as launched once more; NULL where
 * others have it yet, or without memory.  Each launch of such parameters cools
 * down one of those others, which lose their place in the end unless they are
 * launched more often than that. */
static lowlat_repeat *lowlat_repeat_of(lowlat_repeats **all, uint32_t hot, CUstream stream,
                                       const CUkernelNodeParams *launch)
{
    uint64_t hash;
    lowlat_repeats *repeats = *all;
    lowlat_repeat *places, *cold = NULL;
    if (launch->extra == NULL)
        return NULL;
    if (repeats == NULL) {
        if ((repeats = *all = calloc(1, sizeof *repeats)) == NULL)
            return NULL;
        repeats->hot = hot < LOWLAT_LEAST_HEAT ? LOWLAT_LEAST_HEAT : hot;
    }
    hash = lowlat_hash_of(stream, launch);
    places = repeats->places[hash >> 32 & (LOWLAT_REPEATS - 1)];
    for (int i = 0; i < LOWLAT_WAYS; ++i) {
        if (places[i].hash == hash) {
            places[i].heat += places[i].heat < repeats->hot + LOWLAT_HEAT_TO_SPARE;
            return &places[i];
        }
        if (places[i].heat == 0 && (cold == NULL || places[i].graph != NULL))
            cold = &places[i]; /* with a graph that it can have, if there is one */
    }
    if (cold == NULL) {
        places[repeats->hand++ % LOWLAT_WAYS].heat--;
        return NULL;
    }
    cold->hash = hash;
    cold->heat = 1;
    return cold;
}

/* Whether there is room for a graph of parameters' own: for it none goes but
 * another such one that has not been launched for long. */
static int lowlat_room_for(const lowlat_repeats *repeats, lowlat_repeat *repeat)
{
    lowlat_graph *graph, *oldest = NULL;
    if (lowlat_graph_count < lowlat_graph_budget)
        return 1;
    if (repeat->heat == repeats->hot + LOWLAT_HEAT_TO_SPARE)
        repeat->heat = repeats->hot; /* to look again after so many launches */
    if (repeat->heat != repeats->hot + 1)
        return 0;
    for (graph = lowlat_newest_graph; graph != NULL; graph = graph->older)
        if (graph->repeat != NULL && !graph->busy && (oldest == NULL || graph->used < oldest->used))
            oldest = graph;
    if (oldest == NULL || lowlat_graph_clock - oldest->used < LOWLAT_STALE * (uint64_t)lowlat_graph_budget)
        return 0;
    oldest->repeat->heat = 0;
    lowlat_graph_destroy(oldest);
    return lowlat_graph_count < lowlat_graph_budget;
}

/* Its graph, which has those parameters or may be given them, once they have
 * been launched often enough; else NULL. */
static lowlat_graph *lowlat_graph_for(lowlat_repeat *repeat, lowlat_repeats *repeats, uint32_t *hot, CUstream stream,
                                      void *context, const CUkernelNodeParams *launch)
{
    lowlat_graph *graph = repeat->graph;
    if (graph != NULL && graph->busy)
        return NULL;
    if (graph != NULL && graph->stream == stream && graph->context == context && lowlat_graph_has(graph, launch))
        return graph;
    if (repeat->heat <= repeats->hot)
        return NULL;
    if (graph != NULL && (graph->stream != stream || graph->context != context)) {
        lowlat_graph_destroy(graph); /* whose parameters lost this place */
        graph = NULL;
    }
    if (graph == NULL && lowlat_room_for(repeats, repeat)) {
        graph = lowlat_graph_make(&repeats->graphs, hot, stream, context, launch);
        if (graph == NULL) {
            repeat->heat = 0;
            lowlat_cool_down(&repeats->hot);
            return NULL;
        }
        graph->repeat = repeat;
        repeat->graph = graph;
    }
    return graph;
}

static int lowlat_forks; /* between this process and the one that imported lowlat */

/* In a forked child no handle means anything. */
static void lowlat_graphs_forked(void)
{
    lowlat_graph *graph;
    lowlat_forks++;
    for (graph = lowlat_newest_graph; graph != NULL; graph = graph->older) {
        graph->exec = NULL;
        graph->graph = NULL;
        graph->busy = 0;
        graph->stream = (CUstream)~(uintptr_t)0; /* no stream's */
    }
}

/* ---- sequences: several launches as one graph ---------------------------- */

/* One launch of a sequence: its node, and what the node is to be given. */
typedef struct {
    void *owner; /* the SequenceGraph */
    CUgraphNode node; /* NULL where the grid was empty */
    CUkernelNodeParams given; /* its parameters are those below */
    int stale; /* the node has not been given all of that yet */
    CUstream stream;
    int reached; /* the call has come to its launch */
    int empty;   /* which launches nothing, over an empty grid */
    size_t words, maps;   /* how many of each there are */
    unsigned char *bytes; /* tensor maps, words, and a zero for both scratch pointers */
    void **parameters;    /* where in `bytes` each one is, the scratch pointers last */
    uint16_t *offsets;    /* where the kernel reads each one, and */
    size_t size;          /* how large that buffer is; 0: the node gets pointers */
} lowlat_step;

enum { LOWLAT_TENSOR_MAP = 128 };

/* Of this thread: who collects its calls, how deep in such a call it is, and
 * the step that takes the place of the launch that it is on its way to. */
static __thread void *lowlat_recorder;
static __thread int lowlat_depth;
static __thread lowlat_step *lowlat_current_step;

static inline void *lowlat_get_recorder(void) { return lowlat_recorder; }
static inline void lowlat_set_recorder(void *recorder) { lowlat_recorder = recorder; }
static inline int lowlat_deeper(int by) { return lowlat_depth += by; }
static inline lowlat_step *lowlat_get_step(void) { return lowlat_current_step; }
static inline void lowlat_set_step(lowlat_step *step) { lowlat_current_step = step; }

static inline uint64_t *lowlat_step_words(const lowlat_step *step)
{
    return (uint64_t *)(step->bytes + step->maps * LOWLAT_TENSOR_MAP);
}

static inline void lowlat_step_free(lowlat_step *step)
{
    free(step->bytes);
    free(step->parameters);
    free(step->offsets);
    step->bytes = NULL;
    step->parameters = NULL;
    step->offsets = NULL;
}

/* Room for so many parameters; returns -1 without memory.  Tensor maps are at
 * multiples of 128 bytes, as the driver wants them. */
static inline int lowlat_step_room(lowlat_step *step, size_t words, size_t maps)
{
    size_t i, size = maps * LOWLAT_TENSOR_MAP + (words + 1) * sizeof(uint64_t);
    if (step->bytes != NULL && step->words == words && step->maps == maps)
        return 0;
    lowlat_step_free(step);
    step->words = words;
    step->maps = maps;
    step->bytes = aligned_alloc(128, (size + 127) / 128 * 128);
    step->parameters = malloc((words + 2) * sizeof(void *));
    step->offsets = malloc((words + 2) * sizeof *step->offsets);
    if (step->bytes == NULL || step->parameters == NULL || step->offsets == NULL) {
        lowlat_step_free(step);
        return -1;
    }
    memset(step->bytes, 0, size);
    for (i = 0; i < words + 2; ++i)
        step->parameters[i] = &lowlat_step_words(step)[i < words ? i : words];
    return 0;
}

static CUresult lowlat_step_patch(CUgraphExec exec, const lowlat_step *step)
{
    CUkernelNodeParams launch = step->given;
    lowlat_buffer buffer;
    if (step->size != 0) {
        launch.parameters = NULL;
        launch.extra = lowlat_pack(&buffer, alloca(step->size + sizeof(uint64_t)), step->size, step->offsets,
                                   lowlat_step_words(step), NULL, step->words);
    }
    return lowlat_graphs.set_parameters(exec, step->node, &launch);
}

/* ---- which of the two ways is faster here ------------------------------- */

enum { LOWLAT_SAMPLES = 64, LOWLAT_FIRST_SAMPLES = 8, LOWLAT_DEVICES = 64 };
enum { LOWLAT_BY_DRIVER = 0, LOWLAT_BY_GRAPH = 1 };

/* Nanoseconds of real launches, taken in turns; the first few are not kept. */
typedef struct {
    int count[2];
    int64_t samples[2][LOWLAT_SAMPLES];
    int64_t median[2];
    int known; /* both medians are */
} lowlat_race;

static lowlat_race lowlat_races[LOWLAT_DEVICES];

static int lowlat_compare_samples(const void *left, const void *right)
{
    int64_t a = *(const int64_t *)left, b = *(const int64_t *)right;
    return (a > b) - (a < b);
}

static void lowlat_race_note(lowlat_race *race, int way, int64_t nanoseconds)
{
    int index = race->count[way] - LOWLAT_FIRST_SAMPLES;
    if (race->known || index >= LOWLAT_SAMPLES)
        return;
    if (index >= 0)
        race->samples[way][index] = nanoseconds;
    race->count[way]++;
    for (way = 0; way < 2; ++way)
        if (race->count[way] < LOWLAT_FIRST_SAMPLES + LOWLAT_SAMPLES)
            return;
    for (way = 0; way < 2; ++way) {
        qsort(race->samples[way], LOWLAT_SAMPLES, sizeof **race->samples, lowlat_compare_samples);
        race->median[way] = race->samples[way][LOWLAT_SAMPLES / 2];
    }
    race->known = 1;
}

static inline int64_t lowlat_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

#endif
