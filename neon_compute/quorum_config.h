/*-------------------------------------------------------------------------
 *
 * quorum_config.h
 *	  A new configuration of the safekeepers, for this compute to adopt.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_QUORUM_CONFIG_H
#define NEON_QUORUM_CONFIG_H

#include "neon_members.h"

/*
 * Writes the members (text as neon.safekeepers has it) into neon.conf and has
 * the server read its settings again.  False, and *problem palloc'd, if it
 * cannot.  Called by the coordinator.
 */
extern bool quorum_config_write(int generation, const char *members_text, char **problem);

#endif							/* NEON_QUORUM_CONFIG_H */
