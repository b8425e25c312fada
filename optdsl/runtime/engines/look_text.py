"""C that looks at the tensors of a step: one call in place of several of torch's for each tensor.

It reads tensors through the exchange functions of DLPack (https://dmlc.github.io/dlpack), and lists
and dicts through Python's stable C interface. Both come as pointers, so that it is compiled as
kernels are, without headers of Python or torch. It knows the layout of no object.
"""

NAME = "tensor_look"

TEXT = """\
#include <stddef.h>
#include <stdint.h>

/* A tensor as DLPack describes it. */
typedef struct {
    void *data;
    struct { int32_t type, id; } device;
    int32_t ndim;
    struct { uint8_t code, bits; uint16_t lanes; } dtype;
    int64_t *shape, *strides;
    uint64_t byte_offset;
} Tensor;

/* What is called in Python and torch, and objects that answers are compared with. */
typedef struct {
    int (*describe)(void *, Tensor *);
    ptrdiff_t (*list_size)(void *);
    void *(*list_item)(void *, ptrdiff_t);
    int (*list_set)(void *, ptrdiff_t, void *);
    ptrdiff_t (*dict_size)(void *);
    int (*dict_next)(void *, ptrdiff_t *, void **, void **);
    void *(*dict_item)(void *, void *);
    void *(*attribute)(void *, void *);
    void *(*type)(void *);
    void *(*call)(void *, ...);
    void (*release)(void *);
    void (*clear)(void);
    void *none, *no, *is_neg, *grad, *plain;
} Python;

/* The tensors of a step: see `Look` in looks.py. */
typedef struct {
    void *state;
    int64_t owners;
    void **keys, **values;
    int64_t groups;
    void **lists;
    int64_t *counts;
    void **held, **types;
    int64_t *graded;
    int64_t tensors, columns, dims;
    void **states, **names;
    void ***objects;
    int64_t **rows;
    int64_t written;
    int64_t *begins, *ends;
} Look;

enum { DATA, DEVICE, KIND, SHAPE };

static int described(const Python *py, void *object, int64_t dims, Tensor *t)
{
    if (py->describe(object, t)) {
        py->clear();
        return 0;
    }
    return t->ndim <= dims;
}

static int64_t device(const Tensor *t)
{
    return (int64_t)t->device.type << 32 | (uint32_t)t->device.id;
}

static int64_t kind(const Tensor *t)
{
    return (int64_t)t->dtype.lanes << 48 | (int64_t)t->dtype.bits << 40
        | (int64_t)t->dtype.code << 32 | (int64_t)t->ndim;
}

static int64_t address(const Tensor *t)
{
    return (int64_t)((uintptr_t)t->data + t->byte_offset);
}

/* Whether an object is what a call returned; the reference to that is given up. */
static int returned(const Python *py, void *object, void *result)
{
    if (result)
        py->release(result);
    else
        py->clear();
    return result == object;
}

/* Whether a tensor is to be read as its negative, which DLPack does not tell. It is not asked of
   states every time, since that would take a tenth of a step of many small tensors. They become one
   only if their data are set to a negative view of the same memory. */
static int negated(const Python *py, void *object)
{
    return !returned(py, py->no, py->call(py->is_neg, object, NULL));
}

/* Describe tensors in rows of 3 + 2 * dims numbers; how many of them could be described. */
int64_t tensor_rows(const Python *py, int64_t count, void **objects, int64_t dims, int64_t *rows)
{
    for (int64_t n = 0; n < count; ++n, rows += SHAPE + 2 * dims) {
        Tensor t;
        if (!described(py, objects[n], dims, &t) || negated(py, objects[n]))
            return n;
        rows[DATA] = address(&t);
        rows[DEVICE] = device(&t);
        rows[KIND] = kind(&t);
        for (int64_t d = 0; d < t.ndim; ++d) {
            rows[SHAPE + d] = t.shape[d];
            rows[SHAPE + dims + d] = t.strides[d];
        }
    }
    return count;
}

static int unchanged(const Python *py, void *object, int64_t dims, const int64_t *row)
{
    Tensor t;
    if (!described(py, object, dims, &t))
        return 0;
    if (address(&t) != row[DATA] || device(&t) != row[DEVICE] || kind(&t) != row[KIND])
        return 0;
    for (int64_t d = 0; d < t.ndim; ++d)
        if (t.shape[d] != row[SHAPE + d] || t.strides[d] != row[SHAPE + dims + d])
            return 0;
    return 1;
}

/* Whether memory overlaps with what a step writes, extents in order that overlap with no other. */
static int overlaps(const Look *own, int64_t begin, int64_t end)
{
    int64_t low = 0, high = own->written;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (own->begins[middle] < end)
            low = middle + 1;
        else
            high = middle;
    }
    return begin < end && low > 0 && own->ends[low - 1] > begin;
}

/* Whether a gradient is a plain tensor like its parameter, but for where it lies. */
static int fits(const Python *py, const Look *own, void *object, const int64_t *row, int64_t *place)
{
    Tensor t;
    int64_t size = 1, dims = own->dims;
    if (!returned(py, py->plain, py->type(object)) || !described(py, object, dims, &t))
        return 0;
    if (device(&t) != row[DEVICE] || kind(&t) != row[KIND])
        return 0;
    for (int64_t d = 0; d < t.ndim; ++d) {
        if (t.shape[d] != row[SHAPE + d])
            return 0;
        if (t.shape[d] > 1 && t.strides[d] != row[SHAPE + dims + d])
            return 0;
        size *= t.shape[d];
    }
    *place = address(&t);
    if (!*place && size)
        return 0;
    return !overlaps(own, *place, *place + size * t.dtype.bits / 8) && !negated(py, object);
}

static int same_owners(const Python *py, const Look *own)
{
    ptrdiff_t at = 0;
    void *key, *value;
    if (py->dict_size(own->state) != own->owners)
        return 0;
    for (int64_t n = 0; n < own->owners; ++n)
        if (!py->dict_next(own->state, &at, &key, &value) || key != own->keys[n]
            || value != own->values[n])
            return 0;
    return 1;
}

/* Look at parameters; those that have gradients get them listed. */
static int same_parameters(const Python *py, const Look *own, void *gradients, int64_t *places)
{
    int64_t width = SHAPE + 2 * own->dims, number = 0;
    for (int64_t g = 0; g < own->groups; ++g) {
        if (py->list_size(own->lists[g]) != own->counts[g])
            return 0;
        for (int64_t n = 0; n < own->counts[g]; ++n, ++number) {
            void *parameter = py->list_item(own->lists[g], n), *gradient;
            int64_t place = own->graded[number];
            if (parameter != own->held[number]
                || !returned(py, own->types[number], py->type(parameter)))
                return 0;
            gradient = py->attribute(parameter, py->grad);
            if (!gradient || gradient == py->none) {
                if (!returned(py, py->none, gradient) || place >= 0)
                    return 0;
                continue;
            }
            if (place < 0) {
                py->release(gradient);
                return 0;
            }
            if (py->list_set(gradients, place, gradient)) {
                py->clear();
                return 0;
            }
            if (!fits(py, own, gradient, own->rows[0] + place * width, places + place))
                return 0;
        }
    }
    return 1;
}

/* Whether all is as it was described, but for where gradients lie. */
int tensors_unchanged(const Python *py, const Look *own, void *gradients, int64_t *places)
{
    int64_t width = SHAPE + 2 * own->dims;
    if (!same_owners(py, own) || !same_parameters(py, own, gradients, places))
        return 0;
    for (int64_t n = 0; n < own->tensors; ++n) {
        void *state = own->states[n];
        void *parameter = own->objects[0][n];
        if (!unchanged(py, parameter, own->dims, own->rows[0] + n * width)
            || negated(py, parameter))
            return 0;
        if (py->dict_size(state) != own->columns - 1)
            return 0;
        for (int64_t c = 1; c < own->columns; ++c) {
            void *object = py->dict_item(state, own->names[c]);
            if (!object || object != own->objects[c][n]
                || !unchanged(py, object, own->dims, own->rows[c] + n * width))
                return 0;
        }
    }
    return 1;
}
"""
