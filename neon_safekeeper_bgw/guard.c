/*-------------------------------------------------------------------------
 *
 * guard.c
 *	  Who may ask, and what is refused in which state.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "neon_sqlutil.h"
#include "table.h"
#include "utils/acl.h"

#define STORAGE_ROLE	"neon_storage"

void
sk_check_healthy(SkTimeline *tl)
{
	char		detail[SK_DETAIL_MAX];
	SkStatus	status;

	SpinLockAcquire(&tl->shared->mutex);
	status = sk_handle_current(tl) ? tl->shared->status : SK_DELETED;
	strlcpy(detail, tl->shared->detail, sizeof(detail));
	SpinLockRelease(&tl->shared->mutex);
	if (status == SK_DELETED)
		ereport(ERROR,
				(errcode(ERRCODE_NS_UNKNOWN),
				 errmsg("the timeline was deleted")));
	if (status == SK_DAMAGED)
		ereport(ERROR,
				(errcode(ERRCODE_NS_DAMAGED),
				 errmsg("the timeline is damaged on this safekeeper"),
				 errdetail_internal("%s", detail),
				 errhint("Replace this member of the timeline's safekeepers.")));
}

void
sk_check_generation(SkTimeline *tl, uint64 generation)
{
	SkPositions p;

	sk_get_positions(tl, &p);
	if (p.generation != generation)
		ereport(ERROR,
				(errcode(ERRCODE_NS_GENERATION),
				 errmsg("configuration generation " UINT64_FORMAT " is not the one of this member, " UINT64_FORMAT,
						generation, p.generation),
				 sk_errdetail_state(tl)));
}

/* A compute reads its settings again a moment after the members adopt a generation. */
void
sk_check_compute_generation(SkTimeline *tl, uint64 generation)
{
	SkPositions p;

	sk_get_positions(tl, &p);
	if (generation + 1 != p.generation)
		sk_check_generation(tl, generation);
}

void
sk_check_member(SkTimeline *tl)
{
	SkPositions p;

	sk_get_positions(tl, &p);
	if (!p.member)
		ereport(ERROR,
				(errcode(ERRCODE_NS_GENERATION),
				 errmsg("this safekeeper is not a member of the timeline's configuration"),
				 sk_errdetail_state(tl)));
}

void
sk_check_counts(SkTimeline *tl, uint32 term)
{
	SkPositions p;

	sk_get_positions(tl, &p);
	if (p.promised > term)
		ereport(ERROR,
				(errcode(ERRCODE_NS_SUPERSEDED),
				 errmsg("superseded by term %u", p.promised),
				 sk_errdetail_state(tl)));
	if (p.promised < term || !p.counts)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this member does not count for term %u", term),
				 sk_errdetail_state(tl)));
}

static bool
is_storage_role(void)
{
	Oid			role;

	if (superuser())
		return true;
	role = get_role_oid(STORAGE_ROLE, true);
	return OidIsValid(role) && has_privs_of_role(GetUserId(), role);
}

void
sk_check_storage_role(void)
{
	if (!is_storage_role())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied"),
				 errdetail("Only superusers and role \"%s\" may ask for this.", STORAGE_ROLE)));
}

void
sk_check_tenant_role(const NeonId *tenant, bool storage_allowed)
{
	if (storage_allowed && is_storage_role())
		return;
	check_tenant_access(tenant);
}
