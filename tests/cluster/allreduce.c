// The least MPI program that shows where its ranks run and that they reach each other: each prints its host and the sum of all ranks.
#include <mpi.h>
#include <stdio.h>

int main(int argc, char **argv) {
    int rank, sum, length;
    char host[MPI_MAX_PROCESSOR_NAME];
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Allreduce(&rank, &sum, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    MPI_Get_processor_name(host, &length);
    printf("%s %d\n", host, sum);
    return MPI_Finalize();
}
