// MPI alone: the seconds of each of REPEATS sums of MIB MiB of f32 over all ranks, in place. Usage: mpirun -np 2 all_reduce MIB REPEATS
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    int elements = (int)(atof(argv[1]) * (1 << 18)), repeats = atoi(argv[2]), rank, world;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &world);
    float *numbers = malloc(elements * sizeof *numbers);
    for (int repeat = 0; repeat < repeats; repeat++) {
        for (int i = 0; i < elements; i++) numbers[i] = 1;
        MPI_Barrier(MPI_COMM_WORLD);
        double start = MPI_Wtime();
        MPI_Allreduce(MPI_IN_PLACE, numbers, elements, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
        double seconds = MPI_Wtime() - start;
        if (rank == 0) printf("%s%.9f%s", repeat ? ", " : "[", seconds, repeat + 1 == repeats ? "]\n" : "");
    }
    int right = numbers[0] == world;
    MPI_Finalize();
    return !right;
}
