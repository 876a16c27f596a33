/*-------------------------------------------------------------------------
 *
 * untar_test.c
 *	  Unpacks the tar on standard input into the directory that is given, in
 *	  pieces of the size that is given: untar.c by itself, for tests.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include "../output.h"
#include "../untar.h"

int
main(int argc, char **argv)
{
	Untar	   *untar;
	char	   *piece;
	int			size;
	size_t		n;

	if (argc != 3 || (size = atoi(argv[2])) < 1)
		die(EXIT_USAGE, "untar_test DIR SIZE", "wrong usage");
	piece = malloc(size);
	if (piece == NULL)
		die_oom();
	untar = untar_begin(argv[1]);
	while ((n = fread(piece, 1, size, stdin)) > 0)
		untar_data(untar, piece, n);
	untar_finish(untar);
	free(piece);
	return EXIT_OK;
}
