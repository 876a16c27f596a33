/*-------------------------------------------------------------------------
 *
 * neon_layercheck.h
 *	  Reading a whole layer file: everything that it claims is verified, and
 *	  shown to who wants to see it.  Also for frontend programs.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_LAYERCHECK_H
#define NEON_LAYERCHECK_H

#include "neon_layerformat.h"

/* Where the bytes come from. */
typedef struct LayerSource
{
	/* All len bytes, or false. */
	bool		(*read) (void *arg, uint64 offset, void *buf, size_t len);
	void	   *arg;
	uint64		size;			/* of the file */
} LayerSource;

/* Who looks on; a call that is NULL is left out. */
typedef struct LayerVisitor
{
	/* Header and footer are known. */
	void		(*begin) (const LayerHeader *h, const LayerFooter *f, void *arg);
	void		(*block) (uint64 offset, const LayerBlock *b, void *arg);
	void		(*key) (const LayerPlace *place, void *arg);

	/* After its key.  The bytes of a large value are there too. */
	void		(*version) (const LayerEntry *e, const uint8 *bytes, void *arg);
	void	   *arg;
} LayerVisitor;

typedef struct LayerProblem
{
	uint64		offset;
	const char *what;			/* a sentence */
	uint16		version;		/* of the file, if that is why it cannot be read; else 0 */
} LayerProblem;

/*
 * Reads all of the file in order.  False at the first problem.  The CRC of the
 * whole file is looked at last, so what was shown before may be bad only in
 * bytes that nothing else covers (there are none).  Memory is palloc'd.
 */
extern bool layer_check(const LayerSource *source, const LayerVisitor *visitor,
						LayerProblem *problem);

#endif							/* NEON_LAYERCHECK_H */
