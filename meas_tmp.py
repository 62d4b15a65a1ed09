from pathlib import Path
from coop_rl.config import load_config
from coop_rl.planning.memory import learner_memory
from coop_rl.planning.shape import shape_of
from tests.main_job.harness import DEMO
from tests.planning.measured import learner_bytes
import sys
if __name__=="__main__":
    for dtype,stage,ranks in [("float32",3,2),("bfloat16",3,2),("float32",0,1),("float32",2,2),("bfloat16",2,2),("bfloat16",0,2)]:
        c=load_config(Path(DEMO),[f"model.dtype={dtype}","method.kind=rl",f"learner.num_ranks={ranks}",f"learner.zero_stage={stage}",f"learner.micro_batch_tokens={1024//ranks}","learner.grad_stats_every=0","learner.packing=padded","placement.learner.cpus=0"])
        m=learner_bytes(c,16,64); s=shape_of(c.model.path); p=learner_memory(c,s,tokens=int(m["tokens"])); N=s.num_params
        print(dtype,stage,ranks,"N",N,"emb",s.embedding_params,"layer",s.layer_params,"| startup/N %.2f resting/N %.2f peak/N %.2f plan/N %.2f"%(m["startup"]/N,m["resting"]/N,m["peak"]/N,p.total/N),{k:round(v/N,2) for k,v in p.parts.items()},flush=True)
