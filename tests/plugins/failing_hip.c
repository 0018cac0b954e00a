/* The pretended device of failing_cuda.c under AMD's names: preloaded, it stands before ROCm 7's libraries. hipDeviceProp_t begins as
 * CUDA 12's structure does; the name of the architecture comes after it. */
#define cudaGetDeviceProperties_v2 hipGetDevicePropertiesR0600
#define GCN_ARCH_NAME 1160 /* its offset in bytes */

#define cudaGetDeviceCount hipGetDeviceCount
#define cudaGetDevice hipGetDevice
#define cudaSetDevice hipSetDevice
#define cudaSetDeviceFlags hipSetDeviceFlags
#define cudaDeviceGetAttribute hipDeviceGetAttribute
#define cudaDeviceGetPCIBusId hipDeviceGetPCIBusId
#define cudaDeviceCanAccessPeer hipDeviceCanAccessPeer
#define cudaDeviceEnablePeerAccess hipDeviceEnablePeerAccess
#define cudaGetErrorString hipGetErrorString
#define cudaGetLastError hipGetLastError
#define cudaPeekAtLastError hipPeekAtLastError

#define cudaMalloc hipMalloc
#define cudaFree hipFree
#define cudaMemGetInfo hipMemGetInfo
#define cudaHostAlloc hipHostMalloc
#define cudaMallocManaged hipMallocManaged
#define cudaFreeHost hipHostFree
#define cudaHostRegister hipHostRegister
#define cudaHostUnregister hipHostUnregister
#define cudaHostGetDevicePointer hipHostGetDevicePointer
#define cudaMemset hipMemset
#define cudaMemsetAsync hipMemsetAsync
#define cudaMemcpyAsync hipMemcpyAsync
#define cudaMemcpyPeerAsync hipMemcpyPeerAsync
#define cudaMemcpy2DAsync hipMemcpy2DAsync

#define cudaStreamCreateWithFlags hipStreamCreateWithFlags
#define cudaStreamDestroy hipStreamDestroy
#define cudaStreamSynchronize hipStreamSynchronize
#define cudaDeviceSynchronize hipDeviceSynchronize
#define cudaStreamWaitEvent hipStreamWaitEvent
#define cudaStreamIsCapturing hipStreamIsCapturing
#define cudaStreamBeginCapture hipStreamBeginCapture
#define cudaStreamEndCapture hipStreamEndCapture
#define cudaEventCreateWithFlags hipEventCreateWithFlags
#define cudaEventDestroy hipEventDestroy
#define cudaEventRecord hipEventRecord
#define cudaEventSynchronize hipEventSynchronize
#define cudaGraphInstantiate hipGraphInstantiate
#define cudaGraphExecUpdate hipGraphExecUpdate
#define cudaGraphLaunch hipGraphLaunch
#define cudaGraphDestroy hipGraphDestroy
#define cudaGraphExecDestroy hipGraphExecDestroy

#define __cudaRegisterFatBinary __hipRegisterFatBinary
#define __cudaUnregisterFatBinary __hipUnregisterFatBinary
#define __cudaRegisterFunction __hipRegisterFunction
#define __cudaRegisterVar __hipRegisterVar
#define __cudaPushCallConfiguration __hipPushCallConfiguration
#define __cudaPopCallConfiguration __hipPopCallConfiguration
#define cudaLaunchKernel hipLaunchKernel
#define cudaLaunchCooperativeKernel hipLaunchCooperativeKernel
#define cudaFuncSetAttribute hipFuncSetAttribute
#define cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags hipOccupancyMaxActiveBlocksPerMultiprocessor

#define cublasCreate_v2 hipblasCreate
#define cublasDestroy_v2 hipblasDestroy
#define cublasGemmBatchedEx hipblasGemmBatchedEx
#define cublasGemmEx hipblasGemmEx
#define cublasGemmStridedBatchedEx hipblasGemmStridedBatchedEx
#define cublasSgemmBatched hipblasSgemmBatched
#define cublasSgemmStridedBatched hipblasSgemmStridedBatched
#define cublasSgemm_v2 hipblasSgemm
#define cublasSetStream_v2 hipblasSetStream
#define cublasStrsmBatched hipblasStrsmBatched

#include "failing_cuda.c"

int hipMemAdvise(void) { return lost; }
