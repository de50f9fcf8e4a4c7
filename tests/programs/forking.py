"""Processes made by multiprocessing and concurrent.futures: each of them sends 50 events."""

import concurrent.futures
import multiprocessing
import sys

from sending import ViewerClient, ends, send

viewer = ViewerClient()


def work(id):
    return send(viewer, id, 50)


def nest(context, id):
    work(id)
    finish([context.Process(target=work, args=(f"{id}.{n}",)) for n in range(2)])


def fail(id):
    work(id)
    sys.exit(3)


def finish(processes):
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        print("child", process.exitcode)


if __name__ == "__main__":
    kind, method = sys.argv[1:]
    context = multiprocessing.get_context(method)
    work("parent")
    if kind == "process":
        finish([context.Process(target=work, args=(f"child {n}",)) for n in range(3)])
    elif kind == "exit":
        finish([context.Process(target=fail, args=("child 0",))])
    elif kind == "nested":
        finish([context.Process(target=nest, args=(context, "child 0"))])
    elif kind == "pool":
        with context.Pool(2) as pool:
            print("sent", sum(pool.map(work, [f"child {n}" for n in range(3)], chunksize=1)))
            pool.close()
            pool.join()
    else:
        with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as executor:
            print("sent", sum(executor.map(work, [f"child {n}" for n in range(3)])))
    ends()
