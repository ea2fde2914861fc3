"""TensorBoard that ends with the program which has started it: `python -m ed2.app.page.tensorboard_part FLAG ...`."""

from ed2.app.leaving import leave_with_the_starter

if __name__ == "__main__":
    leave_with_the_starter()  # first, since reading libraries takes seconds
    from tensorboard.main import run_main

    run_main()  # reads the flags out of sys.argv
